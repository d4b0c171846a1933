import numpy as np
import pytest
from ase import units
from tblite.interface import Calculator

from dkmp_plugin.labeling.gfn2 import label_conformations, level_of_theory


@pytest.fixture(scope="module")
def frames(p_xylene):
    _, _, positions = p_xylene
    noise = np.random.default_rng(0).normal(scale=0.02, size=(3, *positions.shape))
    return positions + noise


def test_energies_are_tblites_in_kcal_per_mol(p_xylene, frames):
    _, numbers, _ = p_xylene
    energies, _ = label_conformations(numbers, frames)
    calculator = Calculator("GFN2-xTB", np.array(numbers), frames[1] / units.Bohr)
    calculator.set("verbosity", 0)
    hartree = calculator.singlepoint().get("energy")
    assert energies[1] == pytest.approx(hartree * 627.5094740631, rel=1e-7)


def test_forces_are_the_negative_slope_of_the_energy(p_xylene, frames):
    _, numbers, _ = p_xylene
    _, forces = label_conformations(numbers, frames[:1])
    step = 1e-3
    for atom, axis in ((0, 0), (7, 1), (12, 2)):
        shifted = np.repeat(frames[:1], 2, axis=0)
        shifted[0, atom, axis] += step
        shifted[1, atom, axis] -= step
        up, down = label_conformations(numbers, shifted)[0]
        assert forces[0, atom, axis] == pytest.approx(-(up - down) / (2 * step), abs=0.02)


def test_charge_counts(p_xylene, frames):
    _, numbers, _ = p_xylene
    neutral, _ = label_conformations(numbers, frames[:1])
    dication, _ = label_conformations(numbers, frames[:1], charge=2)
    # The first ionisation energy of p-xylene is about 8.4 eV (194 kcal/mol), and the second is larger;
    # GFN2-xTB overestimates vertical ones by eVs.
    assert 2 * 194 < dication[0] - neutral[0] < 900


@pytest.mark.parametrize(
    ("charge", "expected"),
    [
        (0.5, r"charge: 0\.5 was given, a whole number"),
        (float("nan"), "charge: nan was given, a whole number"),
        (True, "charge: True was given, a whole number"),
        (1, r"charge \+1 has an odd number of electrons"),
    ],
)
def test_charges_that_leave_no_closed_shell_are_refused(p_xylene, frames, charge, expected):
    with pytest.raises(ValueError, match=expected):
        label_conformations(p_xylene[1], frames[:1], charge=charge)


def test_coincident_atoms_name_the_conformation(p_xylene, frames):
    _, numbers, _ = p_xylene
    broken = frames.copy()
    broken[2, 1] = broken[2, 0]
    with pytest.raises(ValueError, match="conformation 2 of 3"):
        label_conformations(numbers, broken)


def test_level_of_theory_names_program_and_version():
    assert level_of_theory().startswith("GFN2-xTB (tblite ")
