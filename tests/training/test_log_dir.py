"""Which of the checkpoints in a log_dir of torchmd-train is the best, and which the newest."""

import os
import warnings

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from dkmp_plugin.training.log_dir import best_checkpoint, newest_checkpoint


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


def write_training(folder, losses, written, unit=None, lag=None, **hyper_parameters):
    """Checkpoints of one training, by epoch, written at the time ``written``."""
    for epoch, loss in losses.items():
        path = folder / f"epoch={epoch}-val_loss={loss:.4f}.ckpt"
        contents = {"hyper_parameters": hyper_parameters, "state_dict": {"weight": torch.zeros(3)}}
        declared = {"energy_unit": unit} if unit else {"lag": lag} if lag else None
        torch.save({**contents, "dkmp_plugin": {"dataset": declared}} if declared else contents, path)
        os.utime(path, (written, written))


@pytest.mark.parametrize(
    "before",
    [
        {"unit": "eV"},
        {"train_loss": "l1_loss"},
        {"y_weight": 1.0},
        {"neg_dy_weight": 1.0},
        {"unit": None, "energy_unit": "hartree"},
        {"unit": None, "lag": 5},
    ],
)
def test_losses_that_mean_something_else_do_not_compare(tmp_path, before):
    now = {"unit": "kcal/mol", "model": "dkmp-c", "train_loss": "mse_loss", "y_weight": 0.2}
    now["neg_dy_weight"] = 0.8
    if "lag" in before:
        now.update(unit=None, lag=10, model="dkmp-r")
    write_training(tmp_path, {30: 0.1}, written=1000.0, **{**now, **before})
    write_training(tmp_path, {5: 2.0, 6: 1.0}, written=2000.0, **now)
    with pytest.warns(UserWarning, match="written last; .* left out: epoch=30-val_loss=0.1000.ckpt"):
        assert best_checkpoint(tmp_path).name == "epoch=6-val_loss=1.0000.ckpt"


@pytest.mark.parametrize("model", ["dkmp-r", "tensornet"])
def test_checkpoints_without_a_unit_compare(tmp_path, model):
    given = {"model": model, "train_loss": "mse_loss", "y_weight": 1.0, "neg_dy_weight": 0.0}
    write_training(tmp_path, {30: 0.1}, written=1000.0, num_epochs=31, **given)
    write_training(tmp_path, {31: 2.0}, written=2000.0, num_epochs=40, **given)
    assert best_checkpoint(tmp_path).name.startswith("epoch=30")


def test_folder_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "epoch=3-val_loss=nan-test_loss=0.0000.ckpt").touch()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        best_checkpoint(tmp_path)


def test_half_a_checkpoint_is_removed_with_a_word(tmp_path, capsys):
    newest = tmp_path / "epoch=2-val_loss=0.1.ckpt"
    for path in (tmp_path / "epoch=1-val_loss=0.1.ckpt", newest):
        torch.save({"state_dict": {"weight": torch.zeros(10_000)}}, path)
    whole = newest.read_bytes()
    for epoch, size in ((3, len(whole) - 1), (4, 5000), (11, 0)):
        (tmp_path / f"epoch={epoch}-val_loss=0.1.ckpt").write_bytes(whole[:size])
    assert newest_checkpoint(tmp_path) == (2, newest)
    assert len(list(tmp_path.iterdir())) == 2
    assert capsys.readouterr().out.count("removed ") == 3
    assert newest_checkpoint(tmp_path / "none") is None
