from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.loader import DataLoader

from dkmp_plugin.datasets import DKMPHDF5, REGISTRY
from dkmp_plugin.datasets.label_file import (
    LabelledConformations,
    merge_runs,
    read_label_file,
    split_indices,
    write_label_file,
    write_splits,
)
from dkmp_plugin.datasets.reference_energies import fit_reference_energies

WATER = np.array([8, 1, 1])


def make_labels(index: int = 0, split: str = "train", frames: int = 4, **changes) -> LabelledConformations:
    """Numbers with the shapes and magnitudes of real labels; only the file handling is under test."""
    generator = np.random.default_rng(index)
    values = {
        "atomic_numbers": WATER,
        "positions": generator.normal(size=(frames, 3, 3)),
        "energies": -3178.0 + generator.normal(size=frames),
        "forces": generator.normal(size=(frames, 3, 3)),
        "run": np.full(frames, index),
        "energy_unit": "kcal/mol",
        "level_of_theory": "random numbers",
        "total_charge": 0,
        "sampling": {"runs": [{"index": index, "split": split}]},
    }
    return LabelledConformations(**{**values, **changes})


def three_runs(**changes) -> LabelledConformations:
    return merge_runs(
        [make_labels(run, split, **changes) for run, split in enumerate(("train", "val", "test"))]
    )


def test_file_gives_back_what_was_written(tmp_path):
    labels = three_runs(boxes=np.tile(np.eye(3) * 9.0, (4, 1, 1)))
    write_label_file(tmp_path / "labels.h5", labels)
    read = read_label_file(tmp_path / "labels.h5")
    for name in ("atomic_numbers", "positions", "energies", "forces", "run", "boxes"):
        np.testing.assert_array_equal(getattr(read, name), getattr(labels, name))
    for name in ("energy_unit", "level_of_theory", "total_charge", "reference_energies"):
        assert getattr(read, name) == getattr(labels, name)
    assert read.sampling == labels.sampling
    assert [path.name for path in tmp_path.iterdir()] == ["labels.h5"]


@pytest.mark.parametrize("name", ["atomic_numbers", "energies", "forces", "run"])
def test_arrays_that_disagree_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} have shape"):
        make_labels(**{name: np.zeros((2, 1), dtype=int)})


@pytest.mark.parametrize("name", ["positions", "energies", "forces"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_values_are_refused_and_located(name, bad):
    values = np.array(getattr(make_labels(), name))
    values.reshape(len(values), -1)[2, 0] = bad
    with pytest.raises(ValueError, match=rf"{name} hold NaN or infinity in 1 of 4 .*first: 2"):
        make_labels(**{name: values})


def test_unknown_unit_element_and_split_are_refused():
    with pytest.raises(ValueError, match="energy_unit: 'kcal' was given"):
        make_labels(energy_unit="kcal")
    with pytest.raises(ValueError, match="from 1 to 118"):
        make_labels(atomic_numbers=np.array([8, 0, 1]))
    with pytest.raises(ValueError, match="lack the elements"):
        make_labels(reference_energies={1: -300.0})
    with pytest.raises(ValueError, match="reference_energies: 8: nan was given"):
        make_labels(reference_energies={1: -300.0, 8: float("nan")})
    with pytest.raises(ValueError, match="split 'validation'"):
        make_labels(split="validation")


def test_files_that_are_not_label_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no label file"):
        read_label_file(tmp_path / "absent.h5")
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        read_label_file(text)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["types"] = WATER
    with pytest.raises(ValueError, match="attribute format is None"):
        read_label_file(foreign)


def test_missing_parts_are_named(tmp_path):
    path = tmp_path / "labels.h5"
    for missing in ("forces", "level_of_theory"):
        write_label_file(path, three_runs())
        with h5py.File(path, "r+") as file:
            if missing in file:
                del file[missing]
            else:
                del file.attrs[missing]
        with pytest.raises(ValueError, match=f"{path.name}: lacks {missing}"):
            read_label_file(path)


def file_that_says(folder, attribute, value):
    """A label file, one attribute of which is another."""
    path = folder / "labels.h5"
    write_label_file(path, three_runs())
    with h5py.File(path, "r+") as file:
        file.attrs[attribute] = value
    return path


def test_newer_format_is_refused(tmp_path):
    path = file_that_says(tmp_path, "format_version", 99)
    with pytest.raises(ValueError, match="format_version is 99"):
        read_label_file(path)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "labels.h5"
    write_label_file(path, three_runs())
    before = path.read_bytes()
    unwritable = three_runs()
    unwritable.sampling["description"] = object()
    with pytest.raises(TypeError):
        write_label_file(path, unwritable)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["labels.h5"]


def test_merge_refuses_what_does_not_belong_together():
    first = make_labels(0)
    with pytest.raises(ValueError, match="energy_unit"):
        merge_runs([first, make_labels(1, energy_unit="eV")])
    with pytest.raises(ValueError, match="different molecules"):
        merge_runs([first, make_labels(1, atomic_numbers=WATER[::-1].copy())])
    with pytest.raises(ValueError, match="twice"):
        merge_runs([first, first])
    with pytest.raises(ValueError, match="no run has split 'train'"):
        merge_runs([make_labels(0, "test")])


def test_splits_follow_the_runs(tmp_path):
    labels = three_runs()
    write_splits(tmp_path / "splits.npz", labels)
    splits = np.load(tmp_path / "splits.npz")
    for run, name in enumerate(("idx_train", "idx_val", "idx_test")):
        assert set(labels.run[splits[name]]) == {run}
    joined = np.concatenate([splits[name] for name in splits.files])
    np.testing.assert_array_equal(np.sort(joined), np.arange(len(labels)))


def test_splits_need_a_run_each_and_no_unlisted_run():
    with pytest.raises(ValueError, match="val, test"):
        split_indices(merge_runs([make_labels(0)]))
    unlisted = three_runs()
    unlisted.run[0] = 7
    with pytest.raises(ValueError, match=r"runs \[7\] are not listed"):
        split_indices(unlisted)


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    energy=st.floats(-1e6, 1e6, allow_nan=False),
)
def test_reference_energies_of_one_molecule_add_up_to_its_mean(counts, energy):
    numbers = np.repeat(np.arange(1, len(counts) + 1), counts)
    fitted = fit_reference_energies(numbers, np.array([energy - 1.0, energy + 1.0]))
    total = sum(fitted[number] for number in numbers.tolist())
    assert total == pytest.approx(energy, rel=1e-9, abs=1e-6)


def test_dataset_items(tmp_path):
    labels = three_runs(boxes=np.tile(np.eye(3) * 9.0, (4, 1, 1)))
    write_label_file(tmp_path / "labels.h5", labels)
    dataset = REGISTRY["DKMPHDF5"](str(tmp_path / "labels.h5"))
    item = dataset[5]
    assert item.z.dtype == torch.int64
    assert item.y.shape == (1, 1) and item.box.shape == (1, 3, 3)
    np.testing.assert_array_equal(item.pos, labels.positions[5])
    np.testing.assert_array_equal(item.neg_dy, labels.forces[5])
    assert dataset.total_energy(item.y).item() == pytest.approx(labels.energies[5], abs=1e-9)
    assert dataset.metadata["elements"] == [1, 8]
    batch = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    assert batch.y.shape == (12, 1) and batch.box.shape == (12, 3, 3) and batch.pos.shape == (36, 3)


def test_single_precision_keeps_energy_differences(tmp_path):
    """Total energies of -14,000 kcal/mol have steps of 0.001 in float32; relative ones must not."""
    energies = -13942.0 + 1e-5 * np.arange(4)
    labels = merge_runs([make_labels(run, split, energies=energies) for run, split in enumerate(("train",))])
    write_label_file(tmp_path / "labels.h5", labels)
    dataset = DKMPHDF5(str(tmp_path / "labels.h5"))
    single = torch.cat([item.y for item in dataset]).float().flatten()
    np.testing.assert_allclose(np.diff(single), 1e-5, rtol=1e-3)


def test_file_without_reference_energies_gives_total_energies(tmp_path):
    labels = replace(three_runs(), reference_energies={})
    write_label_file(tmp_path / "labels.h5", labels)
    assert DKMPHDF5(str(tmp_path / "labels.h5"))[0].y.item() == labels.energies[0]


def set_up(path, splits=None):
    """torchmd-train's data module, ready for training."""
    from torchmdnet.data import DataModule

    settings = {"model": "dkmp-c", "max_z": 100, "seed": 1, "log_dir": str(path.parent), "standardize": False}
    sizes = {"train_size": None, "val_size": 1, "test_size": 1, "splits": splits}
    module = DataModule({**settings, **sizes}, DKMPHDF5(str(path)))
    module.setup("fit")
    return module


def test_training_splits_by_the_runs_of_the_file(tmp_path):
    """Without ``splits`` too: torchmd-net's own split would mix conformations of one run."""
    labels = three_runs()
    write_label_file(tmp_path / "labels.h5", labels)
    module = set_up(tmp_path / "labels.h5")
    for part, indices in split_indices(labels).items():
        assert np.asarray(getattr(module, f"idx_{part}")).tolist() == indices.tolist()
    # A split that the configuration names counts.
    np.savez(tmp_path / "other.npz", idx_train=[0, 11], idx_val=[5], idx_test=[6])
    module = set_up(tmp_path / "labels.h5", str(tmp_path / "other.npz"))
    assert np.asarray(module.idx_train).tolist() == [0, 11]


def test_files_that_name_no_split_leave_it_to_torchmd_net(tmp_path):
    write_label_file(tmp_path / "labels.h5", replace(three_runs(), sampling={}))
    assert DKMPHDF5(str(tmp_path / "labels.h5")).split_indices is None
    assert len(set_up(tmp_path / "labels.h5").idx_train) == 10


@pytest.mark.parametrize(
    "splits, message",
    [
        ([(0, "train")], r"the runs \[1, 2\] are not listed"),
        ([(0, "train"), (1, "val"), (2, "val")], r"no run belongs to the split\(s\) test"),
        ([(0, "train"), (1, "val"), (2, "test"), (0, "test")], r"lists the runs \[0\] more than once"),
    ],
)
def test_files_that_name_a_split_in_part_are_refused_without_another(tmp_path, splits, message):
    runs = [{"index": run, "split": split} for run, split in splits]
    write_label_file(tmp_path / "labels.h5", replace(three_runs(), sampling={"runs": runs}))
    with pytest.raises(ValueError, match=rf"labels\.h5: .*{message}.*split of your own with splits:"):
        set_up(tmp_path / "labels.h5")
    np.savez(tmp_path / "other.npz", idx_train=[0, 11], idx_val=[5], idx_test=[6])
    assert np.asarray(set_up(tmp_path / "labels.h5", str(tmp_path / "other.npz")).idx_val).tolist() == [5]


@pytest.mark.parametrize("stored", ['{"1": NaN, "8": -2.0}', '{"1.5": -1.0, "8": -2.0}', "[-1.0, -2.0]"])
def test_reference_energies_that_are_none_are_refused(tmp_path, stored):
    path = file_that_says(tmp_path, "reference_energies", stored)
    with pytest.raises(ValueError, match=r"labels\.h5: reference_energies: .* was given"):
        read_label_file(path)


@pytest.mark.parametrize(
    "stored, message",
    [
        ("[]", r"sampling is \[\], a mapping is expected"),
        ('{"runs": {"0": "train"}}', "a mapping is expected whose runs are a list"),
        ('{"runs": [{"split": "train"}]}', "an index .* and a split are expected"),
        ('{"runs": ["train"]}', "an index .* and a split are expected"),
    ],
)
def test_sampling_descriptions_that_are_none_are_refused(tmp_path, stored, message):
    path = file_that_says(tmp_path, "sampling", stored)
    with pytest.raises(ValueError, match=rf"labels\.h5: .*{message}"):
        read_label_file(path)


def test_fractional_charges_are_refused(tmp_path):
    path = file_that_says(tmp_path, "total_charge", 0.5)
    with pytest.raises(ValueError, match=r"labels\.h5: total_charge: 0\.5 was given, a whole number"):
        read_label_file(path)
