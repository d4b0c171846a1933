"""Hyper-parameters: defaults, and errors that name the key, the value and what is expected."""

import pytest
import yaml
from torchmdnet.models.model import create_model

from dkmp_plugin.config import (
    DKMP_MODELS,
    HYPERPARAMETERS,
    defaults,
    shell_settings,
    validate,
    validate_training,
)
from tests.conftest import ROOT, hyper_parameters


def test_defaults_are_one_pass_of_smooth_shells():
    assert shell_settings(hyper_parameters()) == (3, 1.0)
    assert shell_settings(hyper_parameters(cutoff_upper=1.5)) == (3, 0.5)
    assert shell_settings(hyper_parameters(num_shells=2, shell_overlap=0.0)) == (2, 0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_layers", 0),
        ("num_layers", 2.5),
        ("embedding_dimension", 0),
        ("embedding_dimension", 15),
        ("num_heads", 5),
        ("num_heads", 0),
        ("num_rbf", 0),
        ("cutoff_upper", 0.0),
        ("cutoff_upper", -3.0),
        ("cutoff_lower", 1.0),
        ("num_shells", 4),
        ("num_shells", 0),
        ("shell_overlap", -0.1),
        ("shell_overlap", 2.5),
        ("energy_unit", "Ry"),
        ("optimizer", "sgd"),
        ("precision", 16),
        ("attn_activation", "tanh"),
        ("rbf_type", "fourier"),
        ("activation", "nothing"),
        ("charge", True),
        ("spin", True),
        ("atom_filter", 6),
        ("output_model", "DipoleMoment"),
        ("output_model", "VectorOutput"),
        ("box_vecs", [[30.0, 0.0], [0.0, 30.0]]),
        ("box_vecs", [[30.0, 0.0, 0.0], [0.0, 30.0, 0.0], [30.0, 30.0, 0.0]]),
        ("box_vecs", "cubic"),
    ],
)
def test_impossible_values_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        create_model(hyper_parameters(**{key: value}))


def test_every_hyper_parameter_has_help_and_a_valid_default():
    validate({**hyper_parameters(), **defaults()})
    assert all(len(parameter.help) > 20 for parameter in HYPERPARAMETERS)
    assert len({parameter.name for parameter in HYPERPARAMETERS}) == len(HYPERPARAMETERS)


def test_forces_with_a_weight_must_be_computed():
    """torchmd-net reports errors of exactly zero for forces that no model computes."""
    given = hyper_parameters(derivative=False, neg_dy_weight=0.8)
    with pytest.raises(ValueError, match=r"derivative: False .*derivative: true, or neg_dy_weight: 0"):
        validate_training(given)
    for changes in ({"derivative": True}, {"neg_dy_weight": 0.0}, {"model": "dkmp-r"}):
        validate_training({**given, **changes})
    # Loading a trained model for its energies alone.
    create_model({**given, "derivative": False})


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_agree_with_themselves(path):
    values = yaml.safe_load(path.read_text())
    if values.get("model") in DKMP_MODELS:
        validate_training(values)
