"""MISATO's layout, written small: lazy reading, official lists, the size filter, damaged files."""

import pickle

import h5py
import numpy as np
import pytest
import torch

from dkmp_plugin.datasets import DKMPMISATO
from tests.conftest import shared_data

SIZES = {"10GS": 12, "1A0Q": 30, "2ABC": 12, "3XYZ": 20}
LISTS = {"train_MD.txt": ["10GS", "1A0Q"], "val_MD.txt": ["2ABC"], "test_MD.txt": ["3XYZ"]}


def grid(num_atoms: int) -> np.ndarray:
    """Atoms 1.4 Å apart."""
    axis = 1.4 * np.arange(5)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)[:num_atoms]


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "MD.hdf5", "w") as file:
        for name, size in SIZES.items():
            group = file.create_group(name)
            noise = 0.1 * generator.normal(size=(10, size, 3))
            group["trajectory_coordinates"] = (grid(size) + noise).astype(np.float32)
            group["atoms_number"] = generator.choice([1, 6, 7, 8], size)
    for name, codes in LISTS.items():
        (tmp_path / name).write_text("\n".join(codes) + "\n")
    return tmp_path


def change(folder, key, value, name="10GS"):
    with h5py.File(folder / "MD.hdf5", "a") as file:
        del file[name][key]
        if value is not None:
            file[name][key] = value


def test_pairs(folder):
    data = DKMPMISATO(str(folder), lag=2, num_neighbors=5)
    assert [len(part) for part in data.split_indices] == [16, 8, 8]
    with h5py.File(folder / "MD.hdf5") as file:
        group = file["1A0Q"]
        item = data[8 + 3]
        assert torch.equal(item.z, torch.from_numpy(group["atoms_number"][:]))
        assert np.array_equal(item.pos, group["trajectory_coordinates"][3])
        assert np.allclose(item.y, group["trajectory_coordinates"][5] - group["trajectory_coordinates"][3])
    assert item.neighbors.shape == (30, 5)


def test_training_complexes_are_filtered_by_size_others_are_not(folder):
    data = DKMPMISATO(str(folder), max_training_atoms=15)
    assert [run.name for run in data.runs] == ["10GS", "2ABC", "3XYZ"]
    assert len(DKMPMISATO(str(folder), max_training_atoms=0).runs) == 4


def test_survives_the_trip_to_a_worker_process(folder):
    data = DKMPMISATO(str(folder))
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[5].pos, data[5].pos)


def test_missing_complexes(folder):
    with h5py.File(folder / "MD.hdf5", "a") as file:
        del file["1A0Q"]
    with pytest.raises(ValueError, match=r"lacks 1 of 2 listed complexes \(the first: 1A0Q\)"):
        DKMPMISATO(str(folder))
    assert [run.name for run in DKMPMISATO(str(folder), allow_missing=True).runs] == ["10GS", "2ABC", "3XYZ"]


def test_bad_files(folder):
    with pytest.raises(ValueError, match=r"other\.hdf5: no such file; download it"):
        DKMPMISATO(str(folder), file="other.hdf5")
    content = (folder / "MD.hdf5").read_bytes()
    (folder / "cut.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="truncated or no HDF5 file"):
        DKMPMISATO(str(folder), file="cut.hdf5")
    (folder / "val_MD.txt").write_text("")
    with pytest.raises(ValueError, match=r"val_MD\.txt is empty"):
        DKMPMISATO(str(folder))
    (folder / "val_MD.txt").unlink()
    with pytest.raises(ValueError, match=r"val_MD\.txt: no such file"):
        DKMPMISATO(str(folder))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("atoms_number", None, "10GS has no atoms_number"),
        ("atoms_number", np.ones(7, dtype=np.int64), r"\(7,\) atomic numbers"),
        ("trajectory_coordinates", np.stack([0.1 * grid(12)] * 10), "must be in Å"),
    ],
)
def test_bad_complexes(folder, key, value, message):
    change(folder, key, value)
    with pytest.raises(ValueError, match=message):
        DKMPMISATO(str(folder))


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("train", "test"), ("val", "test")])
def test_a_complex_in_two_lists_is_refused(folder, first, second):
    shared = LISTS[f"{first}_MD.txt"][0]
    with open(folder / f"{second}_MD.txt", "a") as file:
        file.write(f"{shared}\n")
    message = rf"{first}_MD\.txt and {second}_MD\.txt share 1 complexes \(the first: {shared}\)"
    with pytest.raises(ValueError, match=message):
        DKMPMISATO(str(folder))


def test_a_complex_twice_in_a_list_is_refused(folder):
    with open(folder / "val_MD.txt", "a") as file:
        file.write("2ABC\n")
    with pytest.raises(ValueError, match=r"val_MD\.txt lists 2ABC more than once"):
        DKMPMISATO(str(folder))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"max_training_atoms": 5},
            r"max_training_atoms: 5 was given, none of the 2 complexes of train_MD\.txt",
        ),
        ({"max_training_atoms": "10"}, "max_training_atoms: '10' was given, a whole number"),
        ({"allow_missing": "no"}, "allow_missing: 'no' was given, true or false"),
    ],
    ids=str,
)
def test_bad_arguments(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        DKMPMISATO(str(folder), **arguments)


def test_atomic_numbers_are_positive(folder):
    change(folder, "atoms_number", np.array([6] * 11 + [0]))
    data = DKMPMISATO(str(folder))
    with pytest.raises(ValueError, match="10GS: atom 11 has atomic number 0"):
        data[3]


def test_nan_frame_is_named(folder):
    frames = np.stack([grid(12)] * 10)
    frames[4] = np.nan
    change(folder, "trajectory_coordinates", frames)
    data = DKMPMISATO(str(folder))
    with pytest.raises(ValueError, match="10GS: frame 4 holds NaN"):
        data[3]


@pytest.mark.skipif(
    not (shared_data() / "misato-sample" / "train_MD.txt").is_file(),
    reason="needs misato-sample/ (the official split lists) in the folder DKMP_DATA",
)
def test_official_lists():
    from dkmp_plugin.datasets.misato import SPLIT_FILES, read_split_list

    lists = {
        part: read_split_list(shared_data() / "misato-sample" / name) for part, name in SPLIT_FILES.items()
    }
    assert {part: len(codes) for part, codes in lists.items()} == {"train": 13765, "val": 1595, "test": 1612}
    assert not set(lists["train"]) & set(lists["test"])
