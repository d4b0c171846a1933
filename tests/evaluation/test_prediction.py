import numpy as np
import pytest
import torch
from torch_geometric.data import Data, InMemoryDataset

from dkmp_plugin.evaluation.prediction import predict


class Springs(torch.nn.Module):
    """Energy of springs to the origin, one constant per element: known in closed form."""

    def __init__(self):
        super().__init__()
        self.constants = torch.nn.Parameter(torch.arange(10, dtype=torch.float32))

    def forward(self, z, pos, batch, box=None):
        strength = self.constants[z]
        energy = torch.zeros(int(batch.max()) + 1).index_add(0, batch, strength * pos.square().sum(1) / 2)
        return energy[:, None], -strength[:, None] * pos


def dataset_of(molecules):
    """Items of atomic numbers and positions."""
    dataset = InMemoryDataset()
    dataset.data, dataset.slices = InMemoryDataset.collate(
        [Data(z=torch.tensor(numbers), pos=torch.from_numpy(pos)) for numbers, pos in molecules]
    )
    return dataset


@pytest.mark.parametrize("batch_size", [2, 1])
def test_molecules_of_different_sizes_are_refused(batch_size):
    generator = np.random.default_rng(0)
    molecules = [([1] * count, generator.standard_normal((count, 3))) for count in (4, 6)]
    with pytest.raises(ValueError, match=r"items of 4 and 6 atoms .*one molecule"):
        predict(Springs(), dataset_of(molecules), [0, 1], batch_size)


def test_predictions_come_in_the_order_of_the_indices():
    generator = np.random.default_rng(0)
    positions = generator.standard_normal((7, 3, 3))
    dataset = dataset_of([([8, 1, 1], frame) for frame in positions])
    indices = np.array([5, 0, 3, 6, 1])
    energies, forces = predict(Springs(), dataset, indices, batch_size=2)
    constants = np.array([8.0, 1.0, 1.0])
    expected = (constants * np.square(positions[indices]).sum(axis=2)).sum(axis=1) / 2
    np.testing.assert_allclose(energies, expected, rtol=1e-5)
    np.testing.assert_allclose(forces, -constants[None, :, None] * positions[indices], rtol=1e-5)
    assert energies.dtype == forces.dtype == np.float64
