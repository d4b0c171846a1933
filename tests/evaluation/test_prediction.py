import warnings

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch_geometric.data import Data, InMemoryDataset

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


def test_the_training_loss_counts_where_it_was_watched(tmp_path):
    """Names of ``checkpoint_monitor: train_total_mse_loss``."""
    for name in ("epoch=3-train_loss=2.5000.ckpt", "epoch=7-train_loss=1.5000-test_loss=0.0000.ckpt"):
        (tmp_path / name).touch()
    assert best_checkpoint(tmp_path).name.startswith("epoch=7")
    (tmp_path / "epoch=1-val_loss=9.0000.ckpt").touch()
    assert best_checkpoint(tmp_path).name.startswith("epoch=1")


def test_losses_that_look_alike_in_the_names_are_told_apart(tmp_path):
    """Written by Lightning itself, whose file names have four decimals."""
    losses = {9: 3e-5, 10: 1e-5, 11: 2e-5, 12: 4e-5}

    class Constant(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch, index):
            return self.weight.sum()

        def validation_step(self, batch, index):
            self.log("val_total", losses.get(self.current_epoch, 1.0))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    name = "epoch={epoch}-val_loss={val_total:.4f}"
    keep = ModelCheckpoint(tmp_path, name, monitor="val_total", save_top_k=4, auto_insert_metric_name=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=13, accelerator="cpu", callbacks=[keep], **quiet)
    loader = torch.utils.data.DataLoader([0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Constant(), loader, loader)
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {
        f"epoch={epoch}-val_loss=0.0000.ckpt" for epoch in losses
    }
    assert best_checkpoint(tmp_path).name == "epoch=10-val_loss=0.0000.ckpt"


def test_the_newest_of_equal_checkpoints_is_taken(tmp_path):
    for epoch in (9, 10, 8):
        torch.save({}, tmp_path / f"epoch={epoch}-val_loss=0.1000.ckpt")
    assert best_checkpoint(tmp_path).name == "epoch=10-val_loss=0.1000.ckpt"


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
