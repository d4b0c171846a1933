"""Factors between units, against CODATA's own table of 2018."""

import pytest

from dkmp_plugin.units import BOLTZMANN_CONSTANT, ENERGY_UNITS, energy_factor


@pytest.mark.parametrize(
    ("factor", "published"),
    [
        (energy_factor("hartree", "eV"), 27.211386245988),
        (energy_factor("hartree", "kcal/mol"), 627.5094740631),
        (energy_factor("eV", "kJ/mol"), 96.48533212331),
        (BOLTZMANN_CONSTANT, 8.617333262e-5),
    ],
)
def test_published_values(factor, published):
    assert factor == pytest.approx(published, rel=1e-10)


def test_the_same_unit_changes_nothing():
    assert {energy_factor(unit, unit) for unit in ENERGY_UNITS} == {1.0}


def test_unknown_units():
    with pytest.raises(ValueError, match="energy unit: 'Ry' was given, one of eV"):
        energy_factor("eV", "Ry")
