"""Whether a model knows what it is asked about: elements, and the composition of its molecules."""

import warnings

import pytest

from dkmp_plugin.models.elements import check_elements, warn_of_other_composition

METHANOL, WATER = {"1": 4, "6": 1, "8": 1}, {"1": 128, "8": 64}


def test_unknown_elements_are_refused():
    check_elements([1, 6], [1, 6, 8])
    with pytest.raises(ValueError, match="the system holds S, but the model was trained on H, C only"):
        check_elements([1, 16], [1, 6])


@pytest.mark.parametrize("molecules", [1, 2])
@pytest.mark.parametrize("trained", [[METHANOL], [WATER, METHANOL], None])
def test_molecules_of_the_training_pass_also_several(molecules, trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_composition([6, 8, 1, 1, 1, 1] * molecules, trained)


def test_a_smaller_box_of_the_same_liquid_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_composition([8, 1, 1] * 5, [WATER])


def test_other_molecules_are_named():
    with pytest.warns(
        UserWarning, match=r"the atoms are CH4O2, but m\.pt was trained on CH4O, H128O64 alone"
    ):
        warn_of_other_composition([6, 8, 8, 1, 1, 1, 1], [METHANOL, WATER], "m.pt")
    with pytest.warns(UserWarning, match="the atoms are H2O, "):
        warn_of_other_composition([1, 8, 1], [METHANOL])
