"""Which total charge a dataset declares: the file's, the user's, or none."""

import ase
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from dkmp_plugin.datasets import DKMPMD22, DKMPNPZ, DKMPChignolin, DKMPDeePMD, DKMPExtXYZ
from tests.datasets.test_energy_force_files import write_chignolin, write_deepmd, write_extxyz, write_npz


def write_frames(path, *charges):
    """One frame of water for each entry of ``info``."""
    frames = []
    for seed, info in enumerate(charges):
        pos, forces = np.random.default_rng(seed).normal(size=(2, 3, 3))
        frame = ase.Atoms([8, 1, 1], pos, info=info)
        frame.calc = SinglePointCalculator(frame, energy=-2000.0 - seed, forces=forces)
        frames.append(frame)
    write_extxyz(path, frames)


def declared(root, **arguments):
    return DKMPExtXYZ(str(root), **{"files": "a.xyz", **arguments}).metadata["total_charge"]


@pytest.mark.parametrize("info, charge", [({}, None), ({"charge": -1}, -1), ({"total_charge": 2.0}, 2)])
def test_extxyz_files_declare_their_charge(tmp_path, info, charge):
    write_frames(tmp_path / "a.xyz", info, info)
    assert declared(tmp_path) == charge
    assert declared(tmp_path, files="a.xyz@1:") == charge


def test_a_given_charge_must_agree_with_the_file(tmp_path):
    write_frames(tmp_path / "a.xyz", {"charge": 1}, {"charge": 1})
    assert declared(tmp_path, total_charge=1) == 1
    with pytest.raises(ValueError, match="total_charge: 0 was given, but the files declare 1"):
        declared(tmp_path, total_charge=0)


def test_a_given_charge_counts_where_files_declare_none(tmp_path):
    write_frames(tmp_path / "a.xyz", {}, {})
    write_frames(tmp_path / "b.xyz", {"charge": 1}, {})
    assert declared(tmp_path, total_charge=0) == 0
    assert declared(tmp_path, files=["a.xyz", "b.xyz"], total_charge=1) == 1
    with pytest.raises(ValueError, match=r"b\.xyz: frame 0 has charge 1, frame 1 declares none"):
        declared(tmp_path, files="b.xyz")


@pytest.mark.parametrize(
    "infos, message",
    [
        (({"charge": 0}, {"charge": 1}), r"a\.xyz: frame 0 has charge 0, frame 1 has charge 1"),
        (({"charge": 0, "total_charge": 1},), r"a\.xyz: frame 0: charge and total_charge are 0 and 1"),
        (({"charge": 0.5},), r"a\.xyz: frame 0: charge: 0\.5 was given, a whole number"),
        (({"charge": True},), r"a\.xyz: frame 0: charge: True was given, a whole number"),
        (({"charge": "high"},), r"a\.xyz: frame 0: charge: 'high' was given, a whole number"),
    ],
)
def test_impossible_charges_are_refused(tmp_path, infos, message):
    write_frames(tmp_path / "a.xyz", *infos)
    with pytest.raises(ValueError, match=message):
        declared(tmp_path)


def test_files_of_differing_charge_are_refused(tmp_path):
    write_frames(tmp_path / "a.xyz", {"charge": 0})
    write_frames(tmp_path / "b.xyz", {"charge": 1})
    write_frames(tmp_path / "c.xyz", {})
    with pytest.raises(ValueError, match="total charges 0 and 1 "):
        declared(tmp_path, train="a.xyz", val="b.xyz", files=())
    with pytest.raises(ValueError, match=r"total charges 0 and unknown .*total_charge in dataset_arg"):
        declared(tmp_path, files=["a.xyz", "c.xyz"])


def test_other_formats_know_no_charge_unless_it_is_given(tmp_path):
    write_npz(tmp_path / "a.npz")
    write_deepmd(tmp_path / "water")
    for dataset, arguments in (
        (DKMPNPZ, {"energy_unit": "eV", "files": "a.npz"}),
        (DKMPDeePMD, {"files": "water"}),
    ):
        assert dataset(str(tmp_path), **arguments).metadata["total_charge"] is None
        assert dataset(str(tmp_path), **arguments, total_charge=-1).metadata["total_charge"] == -1
        with pytest.raises(ValueError, match=r"total_charge: 0\.5 was given, a whole number"):
            dataset(str(tmp_path), **arguments, total_charge=0.5)


def test_published_sets_declare_what_is_known_of_them(tmp_path):
    write_npz(tmp_path / "md22_AT-AT.npz")
    write_chignolin(tmp_path / "chignolin.npz")
    assert DKMPMD22(str(tmp_path), "AT-AT").metadata["total_charge"] == 0
    assert DKMPChignolin(str(tmp_path)).metadata["total_charge"] is None
    assert DKMPChignolin(str(tmp_path), total_charge=-2).metadata["total_charge"] == -2
