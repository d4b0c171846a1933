"""Bonds that sampling with GFN2-xTB must keep."""

import numpy as np
import pytest

from dkmp_plugin.labeling.campaign import SamplingRun, sample_run
from dkmp_plugin.labeling.sampling import sample_gfn2
from dkmp_plugin.labeling.sdf import read_sdf

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed (extra `bespoke`)")
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers  # noqa: E402

from dkmp_plugin.labeling.connectivity import changed_bonds  # noqa: E402


@pytest.fixture
def molecule(tmp_path):
    """``read(smiles)``: the molecule of an SDF file with a structure in three dimensions."""

    def read(smiles):
        embedded = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(embedded, randomSeed=1) == 0
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(embedded):
            rdForceFieldHelpers.MMFFOptimizeMolecule(embedded)
        Chem.MolToMolFile(embedded, str(tmp_path / "ligand.sdf"))
        return read_sdf(tmp_path / "ligand.sdf", num_conformers=1)

    return read


def sample(molecule, temperature, num_frames=20, **changes):
    run = SamplingRun(
        **{
            "index": 0,
            "split": "train",
            "temperature": temperature,
            "strained": False,
            "num_frames": num_frames,
            "seed": 1,
            "steps_between_frames": 20,
            "equilibration_steps": 100,
            **changes,
        }
    )
    return sample_run(molecule, run)


def test_a_zwitterion_that_vacuum_neutralises_is_refused(molecule):
    """Its proton moves while the structure is minimised: the labels would be those of neutral glycine."""
    message = r"H\d+ moved from N1 to O\d .*another molecule.* neutral .*Amber prmtop"
    with pytest.raises(ValueError, match=message):
        sample(molecule("[NH3+]CC(=O)[O-]"), 300.0, num_frames=2)


def test_a_molecule_that_breaks_when_hot_is_told_to_be_sampled_colder(molecule):
    with pytest.raises(ValueError, match=r"in frame \d+ of 50 at 6000 K, .*lower the temperature"):
        sample(molecule("OO"), 6000.0, num_frames=50)


@pytest.mark.parametrize("smiles", ["CC(=O)CC(=O)C", "CC(=O)OO", "CCO", "NCC(=O)O"])
def test_hot_molecules_keep_their_bonds(molecule, smiles):
    assert len(sample(molecule(smiles), 800.0)) == 20


def test_a_shared_proton_makes_the_same_molecule_again(molecule):
    """Hydrogen maleate: the proton is now on one oxygen atom, now on the other."""
    maleate = molecule(r"[O-]C(=O)/C=C\C(=O)O")
    frames = sample(maleate, 300.0, num_frames=40)
    oxygens = np.flatnonzero(maleate.atomic_numbers == 8)
    (proton,) = (
        second for first, second in maleate.bonds if first in oxygens and maleate.atomic_numbers[second] == 1
    )
    distances = np.linalg.norm(frames[:, oxygens] - frames[:, [proton]], axis=-1)
    assert len(set(distances.argmin(axis=1))) > 1


def test_nothing_is_checked_without_bonds(water):
    frames = sample_gfn2(
        water.atomic_numbers,
        water.conformers[0],
        charge=0,
        temperature=300.0,
        num_frames=1,
        seed=1,
        steps_between_frames=1,
        equilibration_steps=1,
    )
    assert frames.shape == (1, 3, 3)


class TestChangedBonds:
    """Methanol and others with atoms moved by hand."""

    def test_a_hydrogen_that_changes_the_molecule(self, molecule):
        methanol = molecule("CO")
        positions = methanol.conformers[0].copy()
        assert changed_bonds(methanol.atomic_numbers, methanol.bonds, positions) == ""
        away = positions[1] - positions[0]
        positions[2] = positions[1] + 0.97 * away / np.linalg.norm(away)
        text = changed_bonds(methanol.atomic_numbers, methanol.bonds, positions)
        assert text == "H3 moved from C1 to O2 (0.97 Å)"

    def test_a_broken_bond(self, molecule):
        ethanol = molecule("CCO")
        positions = ethanol.conformers[0].copy()
        moving = [2, 8]  # the hydroxyl group
        positions[moving] += 1.5 * (positions[2] - positions[1])
        text = changed_bonds(ethanol.atomic_numbers, ethanol.bonds, positions)
        assert text.startswith("C2 and O3 are no longer bonded (3.")

    def test_a_new_bond(self, molecule):
        """A chain that closes to a ring; in bicyclo[1.1.1]pentane the bridgeheads are always that close."""
        square = 1.5 * np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        text = changed_bonds([6] * 4, [(0, 1), (1, 2), (2, 3)], square)
        assert text == "C1 and C4 are newly bonded (1.50 Å)"
        cage = molecule("C1C2CC1C2")
        assert changed_bonds(cage.atomic_numbers, cage.bonds, cage.conformers[0]) == ""
