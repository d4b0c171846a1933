"""A small real training set: ethanol, rattled, GFN2-xTB labels; and a configuration for it."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from dkmp_plugin.datasets.label_file import LabelledConformations, merge_runs, write_label_file, write_splits
from dkmp_plugin.labeling.gfn2 import ENERGY_UNIT, label_conformations, level_of_theory


@pytest.fixture(scope="session")
def label_folder(tmp_path_factory) -> Path:
    """Folder with ``ethanol.h5`` (24 training, 8 validation, 8 test conformations) and ``splits.npz``."""
    from tests.conftest import ethanol

    z, pos = (tensor.numpy() for tensor in ethanol())
    folder = tmp_path_factory.mktemp("labels")
    parts = []
    for index, (split, number) in enumerate((("train", 24), ("val", 8), ("test", 8))):
        noise = np.random.default_rng(index).normal(scale=0.08, size=(number, *pos.shape))
        energies, forces = label_conformations(z, pos + noise)
        parts.append(
            LabelledConformations(
                atomic_numbers=z,
                positions=pos + noise,
                energies=energies,
                forces=forces,
                run=np.full(number, index),
                energy_unit=ENERGY_UNIT,
                level_of_theory=level_of_theory(),
                total_charge=0,
                sampling={"runs": [{"index": index, "split": split}]},
            )
        )
    labels = merge_runs(parts)
    write_label_file(folder / "ethanol.h5", labels)
    write_splits(folder / "splits.npz", labels)
    return folder


@pytest.fixture
def configuration(label_folder, tmp_path):
    """``write(**changes)`` writes a two-epoch configuration and returns its path."""

    def write(**changes) -> Path:
        values = {
            "dataset": "DKMPHDF5",
            "dataset_root": str(label_folder / "ethanol.h5"),
            "splits": str(label_folder / "splits.npz"),
            "model": "dkmp-c",
            "cutoff_upper": 6.0,
            "num_layers": 2,
            "num_shells": 2,
            "embedding_dimension": 16,
            "num_heads": 4,
            "num_rbf": 8,
            "max_num_neighbors": 64,
            "output_model": "Scalar",
            "derivative": True,
            "num_epochs": 2,
            "save_interval": 1,
            "batch_size": 8,
            "lr": 1.0e-3,
            "num_workers": 0,
            "ngpus": 1,
            "log_dir": str(tmp_path / "log"),
            **changes,
        }
        path = tmp_path / "dkmp.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write
