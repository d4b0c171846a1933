import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from dkmp_plugin.evaluation.prediction import best_checkpoint, predict


def test_best_checkpoint_has_the_lowest_validation_loss(tmp_path):
    for name in (
        "epoch=1-val_loss=12.5000-test_loss=0.0000.ckpt",
        "epoch=8-val_loss=9.7000-test_loss=0.0000.ckpt",
        "epoch=9-val_loss=10.1000.ckpt",  # torchmd-train without a test set
        "epoch=3-val_loss=nan-test_loss=0.0000.ckpt",
        "other.ckpt",
    ):
        (tmp_path / name).touch()
    assert best_checkpoint(tmp_path).name.startswith("epoch=8")


def test_folder_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "epoch=3-val_loss=nan-test_loss=0.0000.ckpt").touch()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        best_checkpoint(tmp_path)


class Springs(torch.nn.Module):
    """Energy of springs to the origin, one constant per element: known in closed form."""

    def __init__(self):
        super().__init__()
        self.constants = torch.nn.Parameter(torch.arange(10, dtype=torch.float32))

    def forward(self, z, pos, batch, box=None):
        strength = self.constants[z]
        energy = torch.zeros(int(batch.max()) + 1).index_add(0, batch, strength * pos.square().sum(1) / 2)
        return energy[:, None], -strength[:, None] * pos


def test_predictions_come_in_the_order_of_the_indices():
    from torch_geometric.data import InMemoryDataset

    generator = np.random.default_rng(0)
    positions = generator.standard_normal((7, 3, 3))
    dataset = InMemoryDataset()
    dataset.data, dataset.slices = InMemoryDataset.collate(
        [Data(z=torch.tensor([8, 1, 1]), pos=torch.from_numpy(frame)) for frame in positions]
    )
    indices = np.array([5, 0, 3, 6, 1])
    energies, forces = predict(Springs(), dataset, indices, batch_size=2)
    constants = np.array([8.0, 1.0, 1.0])
    expected = (constants * np.square(positions[indices]).sum(axis=2)).sum(axis=1) / 2
    np.testing.assert_allclose(energies, expected, rtol=1e-5)
    np.testing.assert_allclose(forces, -constants[None, :, None] * positions[indices], rtol=1e-5)
    assert energies.dtype == forces.dtype == np.float64
