"""Energy-and-force datasets on small files written in the formats as they are published."""

import pickle
import subprocess
import sys

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import open_with_compression
from ase.units import Bohr, Hartree, kcal, mol
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.loader import DataLoader

from dkmp_plugin.datasets import (
    DKMPMD22,
    DKMPNPZ,
    DKMPChignolin,
    DKMPDeePMD,
    DKMPExtXYZ,
)
from dkmp_plugin.datasets.energy_forces import EnergyForces
from dkmp_plugin.datasets.labelled_structures import LabelledStructures, join_structures
from dkmp_plugin.datasets.xyz_frames import read_xyz_frames
from tests.conftest import ethanol, shared_data

NUMBERS = np.array([8, 1, 1])
COUNT = 6


def make_arrays(count=COUNT, atoms=3):
    generator = np.random.default_rng(0)
    return {
        "positions": generator.normal(size=(count, atoms, 3)) * 0.8,
        "energies": -2000.0 + generator.normal(size=count),
        "forces": generator.normal(size=(count, atoms, 3)),
    }


def write_npz(path, **changes):
    arrays = make_arrays()
    values = {"z": NUMBERS, "R": arrays["positions"], "E": arrays["energies"], "F": arrays["forces"]}
    values.update(changes)
    np.savez(path, **{name: array for name, array in values.items() if array is not None})
    return arrays


def write_extxyz(path, frames):
    ase.io.write(path, frames, format="extxyz")


def water_frames(count=COUNT, cell=None, stress=None):
    arrays = make_arrays(count)
    frames = []
    for index in range(count):
        frame = ase.Atoms(NUMBERS, arrays["positions"][index], cell=cell, pbc=cell is not None)
        results = {"energy": arrays["energies"][index], "forces": arrays["forces"][index]}
        if stress is not None:
            results["stress"] = stress
        frame.calc = SinglePointCalculator(frame, **results)
        frames.append(frame)
    return frames, arrays


def write_deepmd(folder, sets=("set.000", "set.001"), count=COUNT, **changes):
    folder.mkdir()
    (folder / "type.raw").write_text("0\n1\n1\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    arrays = make_arrays(count)
    for name in sets:
        (folder / name).mkdir()
        values = {
            "coord": arrays["positions"].reshape(count, 9).astype(np.float32),
            "energy": arrays["energies"].astype(np.float32),
            "force": arrays["forces"].reshape(count, 9).astype(np.float32),
            "box": np.tile(np.diag([10.0, 11.0, 12.0]).reshape(9), (count, 1)),
        }
        values.update(changes)
        for key, value in values.items():
            if value is not None:
                np.save(folder / name / f"{key}.npy", value)
    return arrays


# --- The shared part ---------------------------------------------------------------------------------------


def mixture(seed, references, structures):
    """Water and hydrogen peroxide whose energies are sums of atomic energies."""
    generator = np.random.default_rng(seed)
    molecules = [[8, 1, 1], [8, 8, 1, 1]]
    chosen = [molecules[i] for i in [0, 1, *generator.integers(0, 2, structures)]]
    numbers = np.concatenate(chosen)
    energies = np.array([sum(references[number] for number in molecule) for molecule in chosen])
    size = (len(numbers), 3)
    return LabelledStructures(
        atom_counts=np.array([len(molecule) for molecule in chosen]),
        atomic_numbers=numbers,
        positions=0.7 * generator.normal(size=size),
        energies=energies,
        forces=generator.normal(size=size),
        energy_unit="eV",
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    hydrogen=st.floats(-100, 0),
    oxygen=st.floats(-5000, 0),
    structures=st.integers(0, 10),
)
def test_reference_energies_are_found_where_compositions_differ(seed, hydrogen, oxygen, structures):
    data = EnergyForces(mixture(seed, {1: hydrogen, 8: oxygen}, structures))
    assert data.metadata["reference_energies"] == pytest.approx({1: hydrogen, 8: oxygen}, abs=1e-8)
    for index in range(len(data)):
        assert data[index].y.item() == pytest.approx(0, abs=1e-8)
        total = data.total_energy(data[index].y, index).item()
        assert total == pytest.approx(data.structures.energies[index], abs=1e-8)


def test_items_of_different_size_make_a_batch():
    data = EnergyForces(mixture(0, {1: -1.0, 8: -2.0}, 4))
    batch = next(iter(DataLoader(data, batch_size=len(data))))
    np.testing.assert_array_equal(batch.z, data.structures.atomic_numbers)
    np.testing.assert_array_equal(batch.pos, data.structures.positions)
    np.testing.assert_array_equal(torch.bincount(batch.batch), data.structures.atom_counts)
    assert batch.y.dtype == batch.neg_dy.dtype == torch.float64


def test_compositions_are_recorded_unless_they_are_many():
    data = EnergyForces(mixture(0, {1: -1.0, 8: -2.0}, 4))
    assert data.metadata["compositions"] == [{"1": 2, "8": 1}, {"1": 2, "8": 2}]
    sizes = np.arange(1, 22)
    chains = LabelledStructures(
        atom_counts=sizes,
        atomic_numbers=np.ones(sizes.sum(), dtype=int),
        positions=np.arange(sizes.sum())[:, None] * [1.0, 0.0, 0.0],
        energies=np.zeros(len(sizes)),
        forces=np.zeros((sizes.sum(), 3)),
        energy_unit="eV",
    )
    assert "compositions" not in EnergyForces(chains).metadata


def test_selection_takes_atoms_along():
    structures = mixture(3, {1: -1.0, 8: -2.0}, 5)
    parts = [structures[:2], structures[2:]]
    joined = join_structures(parts)
    np.testing.assert_array_equal(joined.positions, structures.positions)
    np.testing.assert_array_equal(joined.atomic_numbers, structures.atomic_numbers)
    second = EnergyForces(structures[1::2])
    np.testing.assert_array_equal(second[0].pos, EnergyForces(structures)[1].pos)


def test_reference_energies_see_training_structures_only(tmp_path):
    arrays = write_npz(tmp_path / "a.npz")
    data = DKMPNPZ(str(tmp_path), "eV", train="a.npz@:3", val="a.npz@3:4", test="a.npz@4:")
    assert [part.tolist() for part in data.split_indices] == [[0, 1, 2], [3], [4, 5]]
    mean = arrays["energies"][:3].mean()
    assert data.total_energy(torch.zeros(1)).item() == pytest.approx(mean, abs=1e-9)
    data.fit_reference_energies([4, 5])
    assert data.total_energy(torch.zeros(1)).item() == pytest.approx(arrays["energies"][4:].mean(), abs=1e-9)


def test_given_reference_energies_stay(tmp_path):
    write_npz(tmp_path / "a.npz")
    data = DKMPNPZ(str(tmp_path), "eV", files="a.npz", reference_energies={1: -10.0, 8: -1980.0})
    data.fit_reference_energies([0])
    assert data.metadata["reference_energies"] == {1: -10.0, 8: -1980.0}
    assert data.total_energy(torch.zeros(1)).item() == -2000.0
    with pytest.raises(ValueError, match=r"lack the elements \[8\]"):
        DKMPNPZ(str(tmp_path), "eV", files="a.npz", reference_energies={1: -10.0})
    for wrong, said in (
        ({"H": -10.0, 8: -1.0}, "'H': -10.0"),
        ({1: "low", 8: -1.0}, "1: 'low'"),
        ({1.5: -10.0, 8: -1.0}, r"1\.5: -10\.0"),
        ({1: float("nan"), 8: -1.0}, "1: nan"),
        ({1: [-10.0], 8: -1.0}, r"1: \[-10\.0\]"),
    ):
        with pytest.raises(ValueError, match=f"reference_energies: {said} was given, an atomic number"):
            DKMPNPZ(str(tmp_path), "eV", files="a.npz", reference_energies=wrong)
    for wrong in ("average", False, [-10.0, -1980.0]):
        with pytest.raises(ValueError, match=r"reference_energies: .* was given, .*leave it out for a fit"):
            DKMPNPZ(str(tmp_path), "eV", files="a.npz", reference_energies=wrong)
    assert DKMPNPZ(str(tmp_path), "eV", files="a.npz", reference_energies={})[0].y.item() < -1990


def test_unknown_arguments_are_refused(tmp_path):
    write_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"'trian' .* DKMPNPZ.*energy_unit, files, train, val, test, keys"):
        DKMPNPZ(str(tmp_path), "eV", trian="a.npz")


def test_missing_arguments_are_named(tmp_path):
    for root in (None, 3):
        with pytest.raises(ValueError, match=rf"dataset_root: {root} was given, the path of DKMPNPZ's"):
            DKMPNPZ(root, energy_unit="eV", files="a.npz")
    with pytest.raises(ValueError, match="dataset_arg: DKMPMD22 needs molecule"):
        DKMPMD22(str(tmp_path))


def test_datasets_can_be_sent_to_other_processes(tmp_path):
    write_npz(tmp_path / "a.npz")
    data = DKMPNPZ(str(tmp_path), "eV", files="a.npz")
    torch.testing.assert_close(pickle.loads(pickle.dumps(data))[1].pos, data[1].pos)


@pytest.mark.parametrize("settings", [{"prior_model": "Atomref"}, {"prior_model": [{"Atomref": {}}]}])
def test_atomic_energies_as_a_prior_are_refused(tmp_path, settings):
    """``remove_ref_energy: true`` makes the same prior of it."""
    from torchmdnet.models.model import create_prior_models

    write_npz(tmp_path / "a.npz")
    data = DKMPNPZ(str(tmp_path), "eV", files="a.npz")
    with pytest.raises(ValueError, match=r"reference_energies.*remove prior_model and remove_ref_energy"):
        create_prior_models(settings, data)


def test_training_without_an_element_is_refused():
    structures = mixture(0, {1: -1.0, 8: -2.0}, 0)
    alien = LabelledStructures(
        np.array([1]), np.array([6]), np.zeros((1, 3)), np.zeros(1), np.zeros((1, 3)), "eV"
    )
    split = (np.array([0, 1]), np.array([2]), np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"elements \[6\] occur in no training structure"):
        EnergyForces(join_structures([structures, alien]), split)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "either files"),
        ({"files": "a.npz", "train": "a.npz"}, "either files"),
        ({"files": "a.npz", "test": "a.npz"}, "either files"),
        ({"files": "a.npz@x:3"}, "FILE@start:stop"),
        ({"files": "a.npz@3"}, "FILE@start:stop"),
        ({"files": "a.npz@::0"}, r"step \(not 0\)"),
        ({"files": 3}, "files: 3 was given, the name of a file"),
        ({"files": ["a.npz", None]}, "the name of a file or a list of names"),
        ({"files": "a.npz", "keys": ["R"]}, r"keys: \['R'\] was given"),
        ({"files": "a.npz@90:"}, "selects none of 6"),
        ({"files": "b.npz"}, "there is no file"),
    ],
)
def test_impossible_selections_are_refused(tmp_path, arguments, message):
    write_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=message):
        DKMPNPZ(str(tmp_path), "eV", **arguments)


def set_up(data, log_dir, **changes):
    """torchmd-train's data module, ready for training."""
    from torchmdnet.data import DataModule

    values = {
        "model": "dkmp-c",
        "max_z": 100,
        "precision": 32,
        # torchmd-train refuses one beside the parts that a dataset brings.
        "train_size": 3 if data.split_indices is None else None,
        "val_size": 2,
        "test_size": 1,
        "seed": 1,
        "log_dir": str(log_dir),
        "splits": None,
        "standardize": False,
    }
    module = DataModule({**values, **changes}, data)
    module.setup("fit")
    return module


@pytest.mark.parametrize(
    "parts, message",
    [
        (("a.npz", "a.npz@4:", "b.npz"), "train and val share 2 frames of a.npz"),
        (("a.npz@::2", "b.npz", ["b.npz@:2", "a.npz@1:3"]), "train and test share 1 frame of a.npz"),
        (("a.npz@:2", "a.npz@2:4", "./a.npz@3:"), r"val and test share 1 frame of (\./)?a\.npz"),
        (("a.npz@:2", "a.npz@2:4", "link.npz@1:2"), r"train and test share 1 frame of \S+\.npz"),
    ],
)
def test_parts_that_overlap_are_refused(tmp_path, parts, message):
    write_npz(tmp_path / "a.npz")
    write_npz(tmp_path / "b.npz")
    (tmp_path / "link.npz").symlink_to("a.npz")
    train, val, test = parts
    with pytest.raises(ValueError, match=message):
        DKMPNPZ(str(tmp_path), "eV", train=train, val=val, test=test)


@pytest.mark.parametrize(
    "files, message",
    [
        (["a.npz", "a.npz"], "entries of files share 6 frames of a.npz"),
        (["a.npz@:5", "b.npz", "./a.npz@4:"], r"entries of files share 1 frame of \./a\.npz"),
        (["a.npz@::2", "link.npz"], "entries of files share 3 frames of link.npz"),
    ],
)
def test_files_that_overlap_are_refused(tmp_path, files, message):
    """torchmd-net would give one copy of a structure to training and another to the test."""
    write_npz(tmp_path / "a.npz")
    write_npz(tmp_path / "b.npz")
    (tmp_path / "link.npz").symlink_to("a.npz")
    with pytest.raises(ValueError, match=message):
        DKMPNPZ(str(tmp_path), "eV", files=files)
    assert len(DKMPNPZ(str(tmp_path), "eV", files=["a.npz@4:", "a.npz@:4", "b.npz"])) == 2 * COUNT


def test_frames_may_come_twice_in_one_part(tmp_path):
    write_npz(tmp_path / "a.npz")
    data = DKMPNPZ(str(tmp_path), "eV", train=["a.npz@:4", "a.npz@:2"], val="a.npz@4:")
    assert [len(part) for part in data.split_indices] == [6, 2, 0]


@pytest.mark.parametrize("name", ["my@file.npz", "run@1/a.npz"])
def test_names_with_at_signs(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_npz(tmp_path / name)
    assert len(DKMPNPZ(str(tmp_path), "eV", files=name)) == COUNT
    assert len(DKMPNPZ(str(tmp_path), "eV", files=f"{name}@1::2")) == 3


def test_torchmd_train_fits_the_reference_to_its_own_split(tmp_path):
    arrays = write_npz(tmp_path / "a.npz")
    data = DKMPNPZ(str(tmp_path), "eV", files="a.npz")
    module = set_up(data, tmp_path)
    mean = arrays["energies"][np.asarray(module.idx_train)].mean()
    assert data.total_energy(torch.zeros(1)).item() == pytest.approx(mean, abs=1e-9)


def test_torchmd_train_writes_the_split_of_the_dataset(tmp_path):
    write_npz(tmp_path / "a.npz")
    data = DKMPNPZ(str(tmp_path), "eV", train="a.npz@:3", val="a.npz@3:5", test="a.npz@5:")
    module = set_up(data, tmp_path)
    with np.load(tmp_path / "splits.npz") as written:
        for part, indices in (("train", [0, 1, 2]), ("val", [3, 4]), ("test", [5])):
            assert written[f"idx_{part}"].tolist() == indices
            assert getattr(module, f"idx_{part}").tolist() == indices
    # What was written can be given back.
    again = set_up(data, tmp_path, splits=str(tmp_path / "splits.npz"))
    assert again.idx_val.tolist() == [3, 4]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"val": [2, 3]}, r"idx_train and idx_val share 1 item \(first: 2\)"),
        ({"test": [0, 2]}, r"idx_train and idx_test share 2 items"),
        ({"test": [4]}, r"idx_val and idx_test share 1 item"),
        ({"train": np.arange(COUNT) < 3}, r"idx_train has values of type bool .*np\.flatnonzero"),
        ({"train": [0.0, 1.5]}, "idx_train has values of type float64"),
        ({"train": [[0, 1, 2]]}, r"idx_train .* shape \(1, 3\)"),
        ({"test": [-1]}, "idx_test holds -1, indices from 0 to 5 are expected"),
        ({"test": [6]}, "idx_test holds 6, indices from 0 to 5 are expected"),
    ],
)
@pytest.mark.parametrize("model", ["dkmp-c", "tensornet"])
def test_files_of_impossible_splits_are_refused(tmp_path, changes, message, model):
    write_npz(tmp_path / "a.npz")
    parts = {"train": [0, 1, 2], "val": [3, 4], "test": [], **changes}
    np.savez(tmp_path / "own.npz", **{f"idx_{part}": np.array(indices) for part, indices in parts.items()})
    data = DKMPNPZ(str(tmp_path), "eV", files="a.npz")
    with pytest.raises(ValueError, match=rf"own\.npz: {message}"):
        set_up(data, tmp_path, splits=str(tmp_path / "own.npz"), model=model)


def test_files_of_splits_may_leave_parts_empty(tmp_path):
    write_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "own.npz", idx_train=[0, 1, 2], idx_val=[3, 4], idx_test=[])
    module = set_up(DKMPNPZ(str(tmp_path), "eV", files="a.npz"), tmp_path, splits=str(tmp_path / "own.npz"))
    assert len(module.idx_test) == 0


@pytest.mark.filterwarnings("ignore:The standardize option is deprecated", "ignore:'pin_memory' argument")
@pytest.mark.parametrize("references", [None, {1: 0.0, 8: 0.0}])
def test_standardization_sees_training_items_only(tmp_path, references):
    energies = np.array([1.0, 2.0, 6.0, 1e3, 2e3, 3e3])
    write_npz(tmp_path / "a.npz", E=energies)
    split = {"train": "a.npz@:3", "val": "a.npz@3:5", "test": "a.npz@5:"}
    data = DKMPNPZ(str(tmp_path), "eV", reference_energies=references, **split)
    module = set_up(data, tmp_path, standardize=True, inference_batch_size=2, num_workers=0, prior_model=None)
    assert module.mean.item() == pytest.approx(0.0 if references is None else 3.0, abs=1e-9)
    assert module.std.item() == pytest.approx(energies[:3].std(ddof=1))


def test_training_without_validation_is_refused_where_it_is_watched(tmp_path):
    write_npz(tmp_path / "a.npz")
    data = DKMPNPZ(str(tmp_path), "eV", train="a.npz")
    with pytest.raises(ValueError, match=r"val_total_mse_loss needs validation items.*name some with val:"):
        set_up(data, tmp_path, early_stopping_monitor="val_total_mse_loss")
    unwatched = {"early_stopping_monitor": None, "checkpoint_monitor": "train_total_mse_loss"}
    assert len(set_up(data, tmp_path, **unwatched).idx_train) == COUNT


def test_datasets_can_be_imported_before_torchmdnet():
    """The import hook reads the registry while torchmdnet.datasets is being imported."""
    code = (
        "import dkmp_plugin.datasets, torchmdnet.datasets\n"
        "assert set(dkmp_plugin.datasets.REGISTRY) <= set(torchmdnet.datasets.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "could not extend" not in done.stderr


# --- NumPy archives ----------------------------------------------------------------------------------------


def test_npz_items(tmp_path):
    arrays = write_npz(tmp_path / "a.npz", E=make_arrays()["energies"][:, None])
    data = DKMPNPZ(str(tmp_path), "kcal/mol", files=["a.npz"], level_of_theory="random")
    assert len(data) == COUNT
    assert data.metadata["energy_unit"] == "kcal/mol"
    assert data.metadata["elements"] == [1, 8]
    item = data[2]
    np.testing.assert_array_equal(item.pos, arrays["positions"][2])
    np.testing.assert_array_equal(item.neg_dy, arrays["forces"][2])
    assert data.total_energy(item.y).item() == pytest.approx(arrays["energies"][2], abs=1e-9)
    assert "box" not in item


def test_positions_in_other_units_are_found_out(tmp_path):
    """A model of them has small errors, and is useless."""
    numbers, positions = (values.numpy() for values in ethanol())
    arrays = {"z": numbers, "E": np.zeros(3), "F": np.zeros((3, 9, 3))}
    for name, factor in (("nm", 0.1), ("bohr", 1.0 / Bohr), ("right", 1.0)):
        np.savez(tmp_path / f"{name}.npz", R=factor * np.stack([positions] * 3), **arrays)
    with pytest.raises(ValueError, match=r"neighbouring atoms are 0\.\d+ Å apart .* may be in nm"):
        DKMPNPZ(str(tmp_path), "eV", files="nm.npz")
    with pytest.warns(UserWarning, match=r"hydrogen atoms are [12]\.\d+ Å from .* in bohr"):
        DKMPNPZ(str(tmp_path), "eV", files="bohr.npz")
    DKMPNPZ(str(tmp_path), "eV", files="right.npz")


def test_npz_with_other_names_and_a_box(tmp_path):
    arrays = make_arrays()
    np.savez(
        tmp_path / "a.npz",
        numbers=np.tile(NUMBERS, (COUNT, 1)),
        xyz=arrays["positions"],
        U=arrays["energies"],
        minus_dU=arrays["forces"],
        cell=np.eye(3) * 9,
    )
    keys = {
        "numbers": "numbers",
        "positions": "xyz",
        "energies": "U",
        "forces": "minus_dU",
        "boxes": "cell",
    }
    item = DKMPNPZ(str(tmp_path), "hartree", files="a.npz", keys=keys)[5]
    np.testing.assert_array_equal(item.box, np.eye(3)[None] * 9)
    np.testing.assert_array_equal(item.neg_dy, arrays["forces"][5])


def with_nan():
    forces = make_arrays()["forces"]
    forces[4, 1, 2] = np.nan
    return forces


@pytest.mark.parametrize(
    "changes, unit, message",
    [
        ({}, None, "energy_unit: none was given"),
        ({}, "Ha", "energy_unit: 'Ha' was given"),
        ({"F": None}, "eV", r"lacks the arrays F \(it has z, R, E\)"),
        ({"F": np.zeros((COUNT, 4, 3))}, "eV", "forces have shape"),
        ({"E": np.zeros(COUNT - 1)}, "eV", "energies have shape"),
        ({"E": np.full(COUNT, "low")}, "eV", r"a\.npz: energies are of type <U3, real numbers are expected"),
        ({"F": np.zeros((COUNT, 3, 3), complex)}, "eV", r"a\.npz: forces are of type complex128"),
        ({"z": np.array([8, 1])}, "eV", "atomic numbers"),
        ({"z": np.array([8, 1, 0])}, "eV", "numbers from 1 to 118"),
        (
            {"z": np.stack([*[NUMBERS] * 4, NUMBERS[::-1], NUMBERS])},
            "eV",
            r"a\.npz: the atomic numbers of structure 4 differ from those of the first.*DKMPExtXYZ",
        ),
        ({"F": with_nan()}, "eV", r"forces hold NaN or infinity in 1 of 6 structures \(first: 4\)"),
    ],
)
def test_bad_npz_is_refused(tmp_path, changes, unit, message):
    write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=message):
        DKMPNPZ(str(tmp_path), unit, files="a.npz")


def test_npz_with_element_symbols(tmp_path):
    for symbols in (np.array(["O", "H", "H"]), np.array([b"O", b"H", b"H"]), np.array([8.0, 1.0, 1.0])):
        write_npz(tmp_path / "a.npz", z=symbols)
        data = DKMPNPZ(str(tmp_path), "eV", files="a.npz")
        assert data[0].z.tolist() == [8, 1, 1] and data.metadata["elements"] == [1, 8]


@pytest.mark.parametrize(
    "numbers, message",
    [
        (np.array(["O", "Hx", "H"]), r"a\.npz: z holds 'Hx', element symbols or atomic numbers are expected"),
        (np.array(["O", "D", "D"]), r"a\.npz: z holds 'D', .*isotopes are given by their element"),
        (np.array([8.5, 1, 1]), r"a\.npz: z holds 8\.5, "),
        (np.array([8, np.nan, 1]), r"a\.npz: z holds nan, "),
    ],
)
def test_npz_with_what_is_no_element_is_refused(tmp_path, numbers, message):
    write_npz(tmp_path / "a.npz", z=numbers)
    with pytest.raises(ValueError, match=message):
        DKMPNPZ(str(tmp_path), "eV", files="a.npz")


def test_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_text("not an archive")
    with pytest.raises(ValueError, match="not a NumPy archive"):
        DKMPNPZ(str(tmp_path), "eV", files="a.npz")
    write_npz(path)
    damaged = bytearray(path.read_bytes())
    damaged[200:300] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="not a readable"):
        DKMPNPZ(str(tmp_path), "eV", files="a.npz")


def test_md22(tmp_path):
    # As sGDML writes its files: energies in a column, texts beside the arrays.
    arrays = write_npz(
        tmp_path / "md22_AT-AT.npz",
        E=make_arrays()["energies"][:, None],
        name="AT-AT",
        theory="PBE+MBD",
        e_unit="kcal/mol",
        r_unit="Ang",
    )
    data = DKMPMD22(str(tmp_path), "AT-AT")
    assert data.metadata["energy_unit"] == "kcal/mol"
    assert data.total_energy(data[1].y).item() == pytest.approx(arrays["energies"][1], abs=1e-9)
    copy = tmp_path / "AT-AT/raw"
    copy.mkdir(parents=True)
    (tmp_path / "md22_AT-AT.npz").rename(copy / "md22_AT-AT.npz")
    assert len(DKMPMD22(str(tmp_path), "AT-AT", "1::2")) == 3


def test_md22_says_where_the_file_is(tmp_path):
    with pytest.raises(ValueError, match=r"quantum-machine\.org/gdml/data/npz/md22_stachyose\.npz"):
        DKMPMD22(str(tmp_path), "stachyose")
    with pytest.raises(ValueError, match="Ac-Ala3-NHMe"):
        DKMPMD22(str(tmp_path), "aspirin")


@pytest.mark.parametrize("selection", ["abc", 3, "::0", "1:2:3:4"])
def test_selections_of_published_sets_are_checked(tmp_path, selection):
    write_npz(tmp_path / "md22_AT-AT.npz")
    for make in (lambda: DKMPMD22(str(tmp_path), "AT-AT", selection), lambda: DKMPChignolin("", selection)):
        with pytest.raises(ValueError, match=f"selection: {selection!r} was given, start:stop"):
            make()


def write_chignolin(path, count=3, **changes):
    """AI2BMD's layout: all atoms of all structures one after the other; F holds gradients."""
    arrays = make_arrays(count, 166)
    elements = np.random.default_rng(1).choice([1, 6, 7, 8], 166)
    values = {
        "id": np.arange(count),
        "R": arrays["positions"].reshape(-1, 3),
        "Z": np.tile(elements, count),
        "N": np.full(count, 166),
        "F": -arrays["forces"].reshape(-1, 3) * Bohr / Hartree,
        "E": arrays["energies"] / Hartree,
    }
    np.savez(path, **{**values, **changes})
    return arrays


def test_chignolin(tmp_path):
    arrays = write_chignolin(tmp_path / "chignolin.npz")
    data = DKMPChignolin(str(tmp_path))
    assert len(data) == 3
    item = data[1]
    np.testing.assert_allclose(item.neg_dy * (kcal / mol), arrays["forces"][1], rtol=1e-6)
    total = data.total_energy(item.y, 1).item() * (kcal / mol)
    assert total == pytest.approx(arrays["energies"][1], rel=1e-6)
    assert len(DKMPChignolin(str(tmp_path), "::2")) == 2


def test_chignolin_says_where_the_file_is_and_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"github\.com/microsoft/AI2BMD"):
        DKMPChignolin(str(tmp_path))
    write_chignolin(tmp_path / "chignolin.npz", N=np.full(3, 165))
    with pytest.raises(ValueError, match=r"(positions|atomic_numbers) have shape"):
        DKMPChignolin(str(tmp_path))


# --- Extended XYZ ------------------------------------------------------------------------------------------


def test_extxyz_items(tmp_path):
    frames, arrays = water_frames()
    write_extxyz(tmp_path / "a.xyz", frames)
    data = DKMPExtXYZ(str(tmp_path), train="a.xyz@:4", val="a.xyz@4:5", test="a.xyz@5:")
    np.testing.assert_allclose(data[3].pos, arrays["positions"][3], atol=1e-7)
    np.testing.assert_allclose(data[3].neg_dy, arrays["forces"][3], atol=1e-7)
    assert data.metadata["energy_unit"] == "eV"
    assert "box" not in data[3]


def test_extxyz_periodic_with_stress_and_other_names(tmp_path):
    cell = np.array([[9.0, 0, 0], [1.0, 8.0, 0], [0, 0.5, 7.0]])
    frames, arrays = water_frames(cell=cell)
    for frame in frames:
        frame.info["DFT_energy"], frame.info["DFT_virial"] = 2 * frame.get_potential_energy(), np.eye(3) * 4
        frame.arrays["DFT_forces"] = 2 * frame.get_forces()
        frame.calc = None
    write_extxyz(tmp_path / "a.xyz", frames)
    keys = {"energy_key": "DFT_energy", "forces_key": "DFT_forces", "stress_key": "DFT_virial"}
    data = DKMPExtXYZ(str(tmp_path), files="a.xyz", **keys)
    np.testing.assert_allclose(data[0].box[0], cell)
    np.testing.assert_allclose(data[0].neg_dy, 2 * arrays["forces"][0], atol=1e-7)
    np.testing.assert_allclose(data[0].stress[0], np.eye(3) * 4)
    with pytest.raises(ValueError, match=r"no 'energy' .*DFT_energy"):
        DKMPExtXYZ(str(tmp_path), files="a.xyz")


def test_extxyz_voigt_stress(tmp_path):
    frames, _ = water_frames(cell=np.eye(3) * 9, stress=np.array([1.0, 2, 3, 4, 5, 6]))
    write_extxyz(tmp_path / "a.xyz", frames)
    stress = DKMPExtXYZ(str(tmp_path), files="a.xyz", stress_key="stress")[0].stress[0]
    np.testing.assert_allclose(stress, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_isolated_atoms_become_the_reference(tmp_path):
    frames, arrays = water_frames()
    write_extxyz(tmp_path / "a.xyz", frames)
    atoms = []
    for symbol, energy in (("H", -10.0), ("O", -1900.0)):
        atom = ase.Atoms(symbol)
        atom.calc = SinglePointCalculator(atom, energy=energy)
        atoms.append(atom)
    write_extxyz(tmp_path / "atoms.xyz", atoms)
    data = DKMPExtXYZ(str(tmp_path), files="a.xyz", isolated_atoms="atoms.xyz")
    assert data.metadata["reference_energies"] == {1: -10.0, 8: -1900.0}
    assert data[0].y.item() == pytest.approx(arrays["energies"][0] + 1920, abs=1e-6)
    with pytest.raises(ValueError, match="one frame of one atom per element"):
        DKMPExtXYZ(str(tmp_path), files="a.xyz", isolated_atoms="a.xyz")
    with pytest.raises(ValueError, match="give one"):
        DKMPExtXYZ(str(tmp_path), files="a.xyz", isolated_atoms="atoms.xyz", reference_energies={})


@pytest.mark.parametrize(
    "energy, said", [("nan", r"\[?nan\]?"), ("-inf", r"\[?-inf\]?"), ('"-13.6 -13.7"', r"\[-13\.6, -13\.7\]")]
)
def test_isolated_atoms_of_no_energy_are_refused(tmp_path, energy, said):
    write_extxyz(tmp_path / "a.xyz", water_frames()[0])
    (tmp_path / "atoms.xyz").write_text(
        f"1\nProperties=species:S:1:pos:R:3 energy=-1900.0\nO 0 0 0\n"
        f"1\nProperties=species:S:1:pos:R:3 energy={energy}\nH 0 0 0\n"
    )
    with pytest.raises(ValueError, match=rf"atoms\.xyz: frame 1: energy is {said}, one energy is expected"):
        DKMPExtXYZ(str(tmp_path), files="a.xyz", isolated_atoms="atoms.xyz")


def test_bad_extxyz_is_refused(tmp_path):
    (tmp_path / "a.xyz").write_text("3\nProperties=species:S:1:pos:R:3\nO 0 0 0\n")
    with pytest.raises(ValueError, match="not a readable extended XYZ file"):
        DKMPExtXYZ(str(tmp_path), files="a.xyz")
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(ValueError, match=r"empty\.xyz holds no structures"):
        DKMPExtXYZ(str(tmp_path), files="empty.xyz")
    (tmp_path / "heavy.xyz").write_text("1\nenergy=0.0\nD 0 0 0\n")
    with pytest.raises(ValueError, match=r"heavy\.xyz has atoms called 'D', .*isotopes are given by"):
        DKMPExtXYZ(str(tmp_path), files="heavy.xyz")
    slab, _ = water_frames(cell=np.eye(3) * 9)
    slab[0].pbc = (True, True, False)
    write_extxyz(tmp_path / "slab.xyz", slab)
    with pytest.raises(ValueError, match="some directions only"):
        DKMPExtXYZ(str(tmp_path), files="slab.xyz")
    write_extxyz(tmp_path / "open.xyz", water_frames()[0])
    write_extxyz(tmp_path / "periodic.xyz", water_frames(cell=np.eye(3) * 9)[0])
    with pytest.raises(ValueError, match="some files have boxes"):
        DKMPExtXYZ(str(tmp_path), files=["open.xyz", "periodic.xyz"])


@pytest.mark.parametrize("name", ["a.xyz", "a.xyz.gz"])
def test_extxyz_files_are_read_on_behind_blank_lines(tmp_path, name):
    """ASE takes the first of them for the end of the file."""
    frames, arrays = water_frames(3)
    for number, frame in enumerate(frames):
        write_extxyz(tmp_path / f"{number}.xyz", frame)
    texts = [(tmp_path / f"{number}.xyz").read_text() for number in range(3)]
    with open_with_compression(str(tmp_path / name), "w") as file:
        file.write("\n" + texts[0] + "\n" + texts[1] + " \n\n" + texts[2] + "\n\n")
    data = DKMPExtXYZ(str(tmp_path), files=name)
    np.testing.assert_allclose(data.structures.energies, arrays["energies"], atol=1e-7)


def test_blank_comments_are_no_lines_between_frames(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nH 0 0 0\n\n1\n\nO 0 0 0\n")
    assert [str(frame.symbols) for frame in read_xyz_frames(tmp_path / "a.xyz")] == ["H", "O"]
    (tmp_path / "a.xyz").write_text("2\n\nH 0 0 0\n\nH 0 0 1\n")
    with pytest.raises(ValueError, match="not a readable extended XYZ file"):
        read_xyz_frames(tmp_path / "a.xyz")


@pytest.mark.parametrize("name", ["a.xyz@300K", "a b@1.xyz", "a.xyz@1:"])
def test_extxyz_names_with_at_signs(tmp_path, name):
    """ASE would split the name a second time and read another file."""
    frames, arrays = water_frames(3)
    write_extxyz(tmp_path / "a.xyz", frames[::-1])
    write_extxyz(tmp_path / "a b", frames[::-1])
    write_extxyz(tmp_path / "written.xyz", frames)
    (tmp_path / "written.xyz").rename(tmp_path / name)
    data = DKMPExtXYZ(str(tmp_path), files=f"{name}@:2")
    np.testing.assert_allclose(data.structures.energies, arrays["energies"][:2], atol=1e-7)


@pytest.mark.parametrize("energy, said", [("-1 eV", "-1 eV"), ("None", "None"), (None, "True")])
def test_extxyz_energies_that_are_no_numbers_are_refused(tmp_path, energy, said):
    """ASE writes None as a name without a value, and reads that as True."""
    frames, _ = water_frames(3)
    for frame in frames:
        frame.info["U"] = frame.get_potential_energy()
    frames[1].info["U"] = energy
    write_extxyz(tmp_path / "a.xyz", frames)
    with pytest.raises(ValueError, match=rf"a\.xyz: frame 1: U is '{said}', .*number.*without a unit"):
        DKMPExtXYZ(str(tmp_path), files="a.xyz", energy_key="U")


@pytest.mark.parametrize("marked", [True, False])
def test_isolated_atoms_among_the_structures_are_named(tmp_path, marked):
    """MACE's training files hold them; they often have no forces."""
    frames, _ = water_frames(2)
    atom = ase.Atoms("H", info={"config_type": "IsolatedAtom"} if marked else {})
    atom.calc = SinglePointCalculator(atom, energy=-13.6)
    write_extxyz(tmp_path / "a.xyz", [frames[0], atom, frames[1]])
    with pytest.raises(ValueError, match=r"frame 1 has no 'forces'.*file of their own.*isolated_atoms"):
        DKMPExtXYZ(str(tmp_path), files="a.xyz")


@pytest.mark.parametrize("flaw", ["forces", "charge", "energy", "pbc"])
def test_extxyz_frames_that_are_not_selected_are_not_checked(tmp_path, flaw):
    frames, arrays = water_frames(4)
    for frame in frames:
        frame.info["charge"] = 1
    if flaw == "forces":
        frames[0] = ase.Atoms("H", info={"config_type": "IsolatedAtom"})
        frames[0].calc = SinglePointCalculator(frames[0], energy=-13.6)
    elif flaw == "charge":
        del frames[0].info["charge"]
    elif flaw == "energy":
        frames[0].calc.results["energy"] = np.nan
    else:
        frames[0].pbc = (True, False, False)
    write_extxyz(tmp_path / "a.xyz", frames)
    data = DKMPExtXYZ(str(tmp_path), train="a.xyz@1:3", val="a.xyz@:2:-1")
    np.testing.assert_allclose(data.structures.energies, arrays["energies"][1:], atol=1e-7)
    assert data.metadata["total_charge"] == 1
    with pytest.raises(ValueError, match=r"a\.xyz: "):
        DKMPExtXYZ(str(tmp_path), files="a.xyz")


# --- DeePMD-kit's folders ----------------------------------------------------------------------------------


def test_deepmd_items(tmp_path):
    arrays = write_deepmd(tmp_path / "water")
    data = DKMPDeePMD(str(tmp_path), train="water/set.000", val="water/set.001@:2", test="water/set.001@2:")
    assert [len(part) for part in data.split_indices] == [6, 2, 4]
    assert len(DKMPDeePMD(str(tmp_path), files="water")) == 12
    item = data[7]
    np.testing.assert_allclose(item.pos, arrays["positions"][1], rtol=1e-6)
    np.testing.assert_array_equal(item.box[0], np.diag([10.0, 11.0, 12.0]))
    assert item.z.tolist() == [8, 1, 1]
    assert data.metadata["energy_unit"] == "eV"


def test_deepmd_open_boundaries(tmp_path):
    write_deepmd(tmp_path / "water", box=None)
    (tmp_path / "water/nopbc").touch()
    assert "box" not in DKMPDeePMD(str(tmp_path), files="water")[0]


def test_deepmd_mixed_types_differ_from_frame_to_frame(tmp_path):
    """``deepmd/npy/mixed``: type.raw holds zeros, -1 stands for atoms that are not there."""
    types = np.array([[0, 1, 1], [1, 0, 1], [1, -1, 1], [1, 1, -1], [0, 1, 1], [0, 1, 1]])
    arrays = write_deepmd(tmp_path / "water", real_atom_types=types)
    (tmp_path / "water/type.raw").write_text("0\n0\n0\n")
    data = DKMPDeePMD(str(tmp_path), files="water")
    numbers = [data[index].z.tolist() for index in range(8)]
    assert numbers == [[8, 1, 1], [1, 8, 1], [1, 1], [1, 1], [8, 1, 1], [8, 1, 1], [8, 1, 1], [1, 8, 1]]
    for index, atoms in ((2, [0, 2]), (3, [0, 1]), (4, [0, 1, 2])):
        np.testing.assert_allclose(data[index].pos, arrays["positions"][index, atoms], rtol=1e-6)
        np.testing.assert_allclose(data[index].neg_dy, arrays["forces"][index, atoms], rtol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"real_atom_types": np.zeros((COUNT, 4), dtype=int)}, r"real_atom_types.npy has shape \(6, 4\)"),
        ({"real_atom_types": np.full((COUNT, 3), 2)}, "real_atom_types.npy holds types from 2 to 2"),
        ({"box": None}, "lacks box.npy"),
        ({"force": None}, "lacks force.npy"),
        ({"box": np.ones((COUNT, 6))}, r"box.npy has shape \(6, 6\)"),
        ({"box": np.zeros((COUNT, 9))}, "no volume"),
        ({"coord": np.zeros((COUNT, 12))}, r"coord.npy has shape \(6, 12\)"),
        ({"energy": np.float64(3)}, r"set\.000/energy\.npy holds no rows"),
        ({"energy": np.zeros(0)}, r"set\.000/energy\.npy holds no rows"),
        ({"energy": np.full(COUNT, "low")}, r"set\.000/energy\.npy holds values of type <U3"),
        ({"energy": np.full(COUNT, None)}, r"set\.000/energy\.npy is not a readable \.npy file"),
        ({"energy": np.full(COUNT, np.inf)}, r"set\.000: energies hold NaN or infinity in 6 of 6"),
    ],
)
def test_bad_deepmd_folders_are_refused(tmp_path, changes, message):
    write_deepmd(tmp_path / "water", **changes)
    with pytest.raises(ValueError, match=message):
        DKMPDeePMD(str(tmp_path), files="water")


@pytest.mark.parametrize("size", [0, 100, -20])
def test_damaged_deepmd_arrays_are_refused(tmp_path, size):
    write_deepmd(tmp_path / "water")
    path = tmp_path / "water/set.001/force.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"set\.001/force\.npy is not a readable \.npy file .*anew"):
        DKMPDeePMD(str(tmp_path), files="water")


def test_deepmd_without_elements_is_refused(tmp_path):
    write_deepmd(tmp_path / "water")
    (tmp_path / "water/type_map.raw").write_text("O\n")
    with pytest.raises(ValueError, match="one element symbol per type"):
        DKMPDeePMD(str(tmp_path), files="water")
    (tmp_path / "water/type_map.raw").unlink()
    with pytest.raises(ValueError, match=r"there is no file .*type_map\.raw"):
        DKMPDeePMD(str(tmp_path), files="water/set.000")
    with pytest.raises(ValueError, match="there is no folder"):
        DKMPDeePMD(str(tmp_path), files="nothing")


def test_deepmd_types_written_as_floats(tmp_path):
    write_deepmd(tmp_path / "water")
    np.savetxt(tmp_path / "water/type.raw", [0, 1, 1])
    assert DKMPDeePMD(str(tmp_path), files="water")[0].z.tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    "types, message",
    [
        ("0 1 -1", r"water.*types from -1 to 1.*one element symbol per type"),
        ("0 1 0.5", r"type\.raw holds '0\.5'"),
        ("0 1 H", r"type\.raw holds 'H'"),
    ],
)
def test_bad_deepmd_types_are_refused(tmp_path, types, message):
    write_deepmd(tmp_path / "water")
    (tmp_path / "water/type.raw").write_text(types)
    with pytest.raises(ValueError, match=message):
        DKMPDeePMD(str(tmp_path), files="water")


@pytest.mark.parametrize("mixed", [False, True])
def test_only_deepmd_types_that_occur_must_be_elements(tmp_path, mixed):
    kinds = np.tile([1, 2, 2], (COUNT, 1))
    write_deepmd(tmp_path / "water", **({"real_atom_types": kinds} if mixed else {}))
    (tmp_path / "water/type.raw").write_text("0 0 0" if mixed else "1 2 2")
    (tmp_path / "water/type_map.raw").write_text("X O H")
    assert DKMPDeePMD(str(tmp_path), files="water")[0].z.tolist() == [8, 1, 1]
    (tmp_path / "water/type_map.raw").write_text("H O X")
    with pytest.raises(ValueError, match=r"type_map\.raw names X for a type that occurs"):
        DKMPDeePMD(str(tmp_path), files="water")


@pytest.mark.parametrize(
    "arguments, both",
    [
        ({"train": "water", "val": "water/set.001"}, "train and val"),
        ({"files": ["water/set.001", "water"]}, "entries of files"),
    ],
)
def test_a_deepmd_system_and_its_own_folder_overlap(tmp_path, arguments, both):
    write_deepmd(tmp_path / "water")
    with pytest.raises(ValueError, match=rf"{both} overlap.*water/set\.001.*name its folders set\."):
        DKMPDeePMD(str(tmp_path), **arguments)


# --- Real files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset, arguments, count, unit",
    [
        (
            DKMPNPZ,
            {"root": "chignolin", "energy_unit": "kcal/mol", "files": "gfn2_traj2.npz"},
            350,
            "kcal/mol",
        ),
        (
            DKMPExtXYZ,
            {
                "root": "3bpa-acac",
                "files": "dataset_3BPA_train_300K.xyz@:20",
                "isolated_atoms": "dataset_3BPA_iso_atoms.xyz",
            },
            20,
            "eV",
        ),
        (DKMPDeePMD, {"root": "water192", "files": ["data_0", "data_1", "data_2"]}, 320, "eV"),
    ],
)
def test_real_files(dataset, arguments, count, unit):
    folder = shared_data() / arguments["root"]
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set DKMP_DATA to the folder of the shared data sets")
    data = dataset(**{**arguments, "root": str(folder)})
    assert len(data) == count
    assert data.metadata["energy_unit"] == unit
    # Bound molecules: no atom has left, forces balance.
    item = data[count - 1]
    assert torch.pdist(item.pos).min() > 0.7
    assert item.neg_dy.mean(dim=0).abs().max() < 0.01 * item.neg_dy.abs().max()
