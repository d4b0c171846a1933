"""How ``dkmp bespoke`` trains: a template of torchmd-train's configuration, the weights of the losses."""

import os
from pathlib import Path
from typing import Any, Dict

import yaml

from dkmp_plugin.training.torchmd_train import train_to_end, write_configuration

TEMPLATE = Path(__file__).with_name("training.yaml")
# An energy sums over all atoms, and so does its gradient. The best of two weights was 0.2 for the 18 atoms of
# p-xylene and 0.02 for the 166 of chignolin.
_ENERGY_WEIGHT_OF_ALL_ATOMS = 3.6
_LARGEST_ENERGY_WEIGHT = 0.2


def width_divisor() -> int:
    """What divides every possible ``embedding_dimension``: the template's number of heads."""
    return _template()["num_heads"]


def loss_weights(num_atoms: int) -> Dict[str, float]:
    """``y_weight`` and ``neg_dy_weight``, of energies and forces, for a molecule of ``num_atoms`` atoms."""
    energy = min(_LARGEST_ENERGY_WEIGHT, _ENERGY_WEIGHT_OF_ALL_ATOMS / num_atoms)
    return {"y_weight": energy, "neg_dy_weight": 1.0 - energy}


def train(folder: Path, **values: Any) -> None:
    """Write ``training.yaml`` and train as it says, in ``folder``, until its epochs are done.

    Args:
        folder: Where torchmd-train runs; paths of the template are relative to it.
        values: Keys and values that replace those of the template.

    Raises:
        RuntimeError: If the training fails, or ``torchmd-train`` is not there.
        ValueError: If its newest checkpoint cannot be loaded.
    """
    configuration = write_configuration(folder / "training.yaml", {**_template(), **values})
    # Molecules this small gain nothing from a second thread.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    train_to_end(configuration, folder=folder, environment=environment)


def _template() -> Dict[str, Any]:
    return yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
