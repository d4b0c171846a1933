"""The metrics that torchmd-train leaves: resumed, killed, and with one of the losses switched off."""

import matplotlib.image
import numpy as np
import pytest

from dkmp_plugin.evaluation.learning_curve import plot_learning_curve, read_learning_curve

BOTH = "epoch,lr,train_total_mse_loss,val_y_l1_loss,val_neg_dy_l1_loss,step\n"


def test_a_resumed_training_is_one_curve(tmp_path):
    first = BOTH + "0,0.1,9,3,6,8\n0,,9,,,9\n1,0.1,8,2,5,16\n2,0.1,8,1"  # killed in a row
    (tmp_path / "metrics_2026-01-01-00:00:00.csv").write_text(first)
    (tmp_path / "metrics.csv").write_text(BOTH + "1,0.1,8,1.5,4,16\n2,0.1,7,1,3,24\n")
    curve = read_learning_curve(tmp_path)
    np.testing.assert_array_equal(curve["epoch"], [0, 1, 2])
    np.testing.assert_array_equal(curve["val_y_l1_loss"], [3, 1.5, 1])
    np.testing.assert_array_equal(curve["val_neg_dy_l1_loss"], [6, 4, 3])


@pytest.mark.parametrize("column", ["val_neg_dy_l1_loss", "val_y_l1_loss"])
def test_one_loss_alone(tmp_path, column):
    """``y_weight: 0`` or ``neg_dy_weight: 0``: torchmd-net leaves that loss out of its metrics."""
    (tmp_path / "metrics.csv").write_text(f"epoch,lr,{column},step\n0,0.1,6,8\n0,,,9\n1,0.1,5,16\n")
    curve = read_learning_curve(tmp_path)
    assert set(curve) == {"epoch", column}
    np.testing.assert_array_equal(curve[column], [6, 5])
    plot_learning_curve(tmp_path / "one.png", tmp_path, "eV")
    (tmp_path / "metrics.csv").write_text(BOTH + "0,0.1,9,3,6,8\n1,0.1,8,2,5,16\n")
    plot_learning_curve(tmp_path / "both.png", tmp_path, "eV")
    one, both = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("one", "both"))
    assert both.shape[0] > one.shape[0] > 100


def test_a_loss_that_was_switched_on_later_has_gaps(tmp_path):
    (tmp_path / "metrics_2026-01-01-00:00:00.csv").write_text("epoch,val_neg_dy_l1_loss\n0,6\n")
    (tmp_path / "metrics.csv").write_text(BOTH + "1,0.1,8,2,5,16\n")
    curve = read_learning_curve(tmp_path)
    np.testing.assert_array_equal(curve["val_neg_dy_l1_loss"], [6, 5])
    np.testing.assert_array_equal(curve["val_y_l1_loss"], [np.nan, 2])


@pytest.mark.parametrize("content", [None, "epoch,lr\n0,0.1\n", BOTH + "0,,9,,,9\n"])
def test_folders_without_validation_errors_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(ValueError, match=r"holds no metrics\.csv with validation errors"):
        read_learning_curve(tmp_path)
