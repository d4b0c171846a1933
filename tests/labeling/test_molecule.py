"""Ligands from files: Amber systems and SDF."""

import dataclasses
import re
from typing import ClassVar

import numpy as np
import openmm
import pytest
from openmm import app, unit

from dkmp_plugin.labeling.amber import read_amber
from dkmp_plugin.labeling.extraction import extract_molecule
from dkmp_plugin.labeling.molecule import Molecule
from dkmp_plugin.labeling.sampling import sample_gfn2
from dkmp_plugin.labeling.sdf import read_sdf


@pytest.fixture
def sdf(tmp_path):
    """``write(smiles, ...)`` writes an SDF file without coordinates and hydrogens."""
    Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed (extra `bespoke`)")

    def write(*smiles):
        path = tmp_path / "ligand.sdf"
        with Chem.SDWriter(str(path)) as writer:
            for entry in smiles:
                writer.write(Chem.MolFromSmiles(entry))
        return path

    return write


@pytest.fixture
def drawing(tmp_path):
    """``write(smiles)`` writes an SDF file with the coordinates of a drawing, wedges included."""
    Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed (extra `bespoke`)")
    from rdkit.Chem import rdDepictor

    def write(smiles):
        path = tmp_path / "drawing.sdf"
        molecule = Chem.MolFromSmiles(smiles)
        rdDepictor.Compute2DCoords(molecule)
        Chem.MolToMolFile(molecule, str(path))
        return path

    return write


# A truncated octahedron's box vectors, in the reduced form of OpenMM.
OCTAHEDRON = np.array([[1, 0, 0], [1 / 3, 8**0.5 / 3, 0], [-1 / 3, 2**0.5 / 3, 6**0.5 / 3]])


def write_coordinates(path, prmtop, positions, box):
    """Writes Amber coordinates or a PDB file with a periodic box; all in Å."""
    if path.suffix == ".pdb":
        topology = app.AmberPrmtopFile(str(prmtop)).topology
        topology.setPeriodicBoxVectors(box * unit.angstrom)
        with open(path, "w") as file:
            app.PDBFile.writeFile(topology, positions * unit.angstrom, file)
        return
    values = "".join(f"{value:12.7f}" for value in positions.ravel())
    lines = [values[start : start + 72] for start in range(0, len(values), 72)]
    if box is not None:
        lengths = np.linalg.norm(box, axis=1)
        a, b, c = box / lengths[:, None]
        angles = np.degrees(np.arccos([b @ c, a @ c, a @ b]))
        lines.append("".join(f"{value:12.7f}" for value in (*lengths, *angles)))
    path.write_text("\n".join(["", str(len(positions)).rjust(6), *lines]) + "\n")


def chiral_volume(positions, centre, neighbors):
    """Signed volume that three neighbours of an atom span."""
    return np.linalg.det(positions[list(neighbors)] - positions[centre])


class TestAmber:
    def test_the_residue_with_its_force_field(self, p_xylene_molecule, t4_lysozyme):
        assert p_xylene_molecule.charge == 0 and p_xylene_molecule.conformers.shape == (1, 18, 3)
        np.testing.assert_allclose(
            p_xylene_molecule.conformers[0], t4_lysozyme.positions[t4_lysozyme.ligand], atol=1e-9
        )
        alone = openmm.XmlSerializer.deserialize(p_xylene_molecule.force_field)
        expected = extract_molecule(t4_lysozyme.system, t4_lysozyme.ligand)
        energies = []
        for system in (alone, expected):
            context = openmm.Context(
                system, openmm.VerletIntegrator(1e-3), openmm.Platform.getPlatformByName("Reference")
            )
            context.setPositions(p_xylene_molecule.conformers[0] * unit.angstrom)
            energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
        assert energies[0] == pytest.approx(energies[1], abs=1e-9) and abs(energies[0]) > 1

    def test_coordinates_beside_the_prmtop_and_the_only_residue(self, p_xylene_files):
        folder = p_xylene_files[0].parent
        alone = read_amber(folder / "ligand.prmtop")
        assert alone.name == "TMP" and len(alone.atomic_numbers) == 18

    @pytest.mark.parametrize("suffix", [".pdb", ".inpcrd"])
    @pytest.mark.parametrize("shape", ["cuboid", "octahedron"])
    def test_a_ligand_cut_by_the_periodic_box_is_made_whole(self, p_xylene_files, tmp_path, suffix, shape):
        prmtop = p_xylene_files[0].parent / "ligand.prmtop"
        expected = read_amber(prmtop).conformers[0]
        box = 25.0 * (np.eye(3) if shape == "cuboid" else OCTAHEDRON)
        fractions = np.linalg.solve(box.T, (expected - expected.mean(axis=0)).T).T
        wrapped = (fractions % 1.0) @ box
        assert np.ptp(wrapped, axis=0).min() > 10.0
        write_coordinates(tmp_path / f"cut{suffix}", prmtop, wrapped, box)
        whole = read_amber(prmtop, tmp_path / f"cut{suffix}").conformers[0]
        distances = [np.linalg.norm(array[:, None] - array[None], axis=-1) for array in (whole, expected)]
        np.testing.assert_allclose(*distances, atol=2e-3)

    def test_a_cut_ligand_without_a_box_is_refused(self, p_xylene_files, tmp_path):
        prmtop = p_xylene_files[0].parent / "ligand.prmtop"
        cut = read_amber(prmtop).conformers[0]
        cut[:9] += [25.0, 0.0, 0.0]
        for box in (None, np.eye(3)):
            write_coordinates(tmp_path / "cut.inpcrd", prmtop, cut, box)
            with pytest.raises(ValueError, match=r"bonded but 2\d\.\d Å apart"):
                read_amber(prmtop, tmp_path / "cut.inpcrd")

    def test_bromine_of_a_prmtop_without_atomic_numbers(self, p_xylene_files, tmp_path):
        """OpenMM takes BR1 for boron."""
        prmtop = p_xylene_files[0].with_name("ligand.prmtop")
        text = prmtop.read_text()
        assert "%FLAG ATOMIC_NUMBER" not in text
        text = text.replace("C8  H1  ", "C8  BR1 ").replace("1.00800000E+00", "7.99000000E+01", 1)
        (tmp_path / "bromide.prmtop").write_text(text)
        bromide = read_amber(tmp_path / "bromide.prmtop", prmtop.with_name("ligand.crd"))
        assert bromide.atomic_numbers.tolist() == [6] * 8 + [35] + [1] * 9

    def test_bad_input(self, p_xylene_files, tmp_path):
        prmtop, coordinates = p_xylene_files
        with pytest.raises(ValueError, match=r"163 residues; name the ligand's.*TMP"):
            read_amber(prmtop)
        with pytest.raises(ValueError, match="no such file; an Amber prmtop"):
            read_amber(tmp_path / "none.prmtop")
        with pytest.raises(ValueError, match=r"has 18 atoms, but .* has 2621"):
            read_amber(prmtop, prmtop.parent / "ligand.crd", "TMP")
        alone = tmp_path / "alone.prmtop"
        alone.write_bytes(prmtop.read_bytes())
        with pytest.raises(ValueError, match=r"no coordinates beside .*alone\.pdb"):
            read_amber(alone, residue="TMP")
        alone.write_text("@<TRIPOS>MOLECULE\n")
        with pytest.raises(ValueError, match=r"neither an Amber prmtop nor an SDF file .*convert it"):
            read_amber(alone, coordinates, "TMP")
        alone.write_bytes(prmtop.read_bytes()[:2000])
        with pytest.raises(ValueError, match="cannot be read as an Amber prmtop"):
            read_amber(alone, coordinates, "TMP")


@pytest.fixture
def pdb(p_xylene_files, tmp_path):
    """``write(order, names)``: a PDB file of p-xylene with atoms in another order, or named otherwise."""
    prmtop = p_xylene_files[0].with_name("ligand.prmtop")
    positions = read_amber(prmtop).conformers[0]

    def write(order=None, rename=None):
        atoms = list(app.AmberPrmtopFile(str(prmtop)).topology.atoms())
        order = list(range(len(atoms))) if order is None else order
        topology = app.Topology()
        residue = topology.addResidue("TMP", topology.addChain())
        for index in order:
            name = (rename or {}).get(index, atoms[index].name)
            topology.addAtom(name, atoms[index].element, residue)
        path = tmp_path / "ligand.pdb"
        with open(path, "w") as file:
            app.PDBFile.writeFile(topology, positions[order] * unit.angstrom, file)
        return prmtop, path

    return write


def swapped(first, second, size=18):
    order = list(range(size))
    order[first], order[second] = second, first
    return order


class TestPdbOfAPrmtop:
    def atoms_of(self, prmtop, element):
        atoms = app.AmberPrmtopFile(str(prmtop)).topology.atoms()
        return [atom.index for atom in atoms if atom.element.symbol == element]

    def test_its_own_file_and_other_names(self, pdb):
        prmtop, path = pdb()
        expected = read_amber(prmtop).conformers
        np.testing.assert_allclose(read_amber(prmtop, path).conformers, expected, atol=1e-3)
        # Names of another convention, as other programs write them: the elements agree.
        carbon, hydrogen = (self.atoms_of(prmtop, element)[0] for element in "CH")
        prmtop, path = pdb(rename={carbon: "C99", hydrogen: "H99"})
        read_amber(prmtop, path)

    def test_other_elements_are_refused(self, pdb):
        prmtop, _ = pdb()
        carbon, hydrogen = (self.atoms_of(prmtop, element)[0] for element in "CH")
        prmtop, path = pdb(swapped(carbon, hydrogen))
        first = min(carbon, hydrogen) + 1
        with pytest.raises(ValueError, match=rf"different atoms: atom {first} is .* of residue TMP.*order"):
            read_amber(prmtop, path)

    def test_the_same_names_in_another_order_are_refused(self, pdb):
        prmtop, _ = pdb()
        first, second = self.atoms_of(prmtop, "C")[:2]
        prmtop, path = pdb(swapped(first, second))
        with pytest.raises(ValueError, match=rf"different atoms: atom {first + 1} is "):
            read_amber(prmtop, path)

    def test_elements_that_openmm_guesses_do_not_count(self, pdb):
        """Without a column of elements, as CL1 of a ligand, which it takes for carbon."""
        prmtop, path = pdb()
        first = self.atoms_of(prmtop, "C")[0]
        lines = path.read_text().splitlines()
        lines = [line[:76] + " O" if line[6:11].strip() == str(first + 1) else line for line in lines]
        path.write_text("\n".join(lines) + "\n")
        read_amber(prmtop, path)


class TestSdf:
    def test_hydrogens_conformers_and_charge(self, sdf):
        path = sdf("CC[NH3+]")
        molecule = read_sdf(path, num_conformers=4, seed=3)
        assert sorted(molecule.atomic_numbers.tolist()) == [1] * 8 + [6, 6, 7]
        assert molecule.charge == 1 and molecule.force_field is None
        assert 2 <= len(molecule.conformers) <= 4
        again = read_sdf(path, num_conformers=4, seed=3)
        assert again.fingerprint == molecule.fingerprint
        assert read_sdf(path, num_conformers=4, seed=4).fingerprint != molecule.fingerprint

    def test_the_structure_in_the_file_comes_first(self, sdf, tmp_path):
        from rdkit import Chem

        flat = read_sdf(sdf("CO"), num_conformers=1)
        molecule = Chem.AddHs(Chem.MolFromSmiles("CO"))
        conformer = Chem.Conformer(6)
        for index, position in enumerate(flat.conformers[0] + [1.0, 2.0, 3.0]):
            conformer.SetAtomPosition(index, position.tolist())
        conformer.Set3D(True)
        molecule.AddConformer(conformer)
        Chem.MolToMolFile(molecule, str(tmp_path / "given.sdf"))
        given = read_sdf(tmp_path / "given.sdf")
        np.testing.assert_allclose(given.conformers[0], flat.conformers[0] + [1.0, 2.0, 3.0], atol=1e-3)

    @pytest.mark.parametrize(
        ("smiles", "message"),
        [
            (("C", "O"), "holds 2 molecules, one is expected"),
            (("C.O",), "several fragments"),
            (("[CH3]",), r"unpaired electrons at C1 .*closed shell"),
            (("[O][O]",), r"unpaired electrons at O1, O2 "),
            (("[CH2]",), r"unpaired electrons at C1 "),
            (("[CH2]CC[CH2]",), r"unpaired electrons at C1, C4 "),
            (("C*",), r"elements H \(1\) to Rn .*atoms 2 \(atomic number 0\)"),
            (("F[U](F)(F)(F)(F)F",), r"atoms 2 \(atomic number 92\)"),
        ],
    )
    def test_bad_molecules(self, sdf, smiles, message):
        with pytest.raises(ValueError, match=message):
            read_sdf(sdf(*smiles))

    @pytest.mark.parametrize(
        ("smiles", "named"),
        [
            ("CC(F)C(Cl)O", "atom 2 (C), atom 4 (C)"),
            ("C[C@H](F)C(Cl)O", "atom 4 (C)"),
            ("CC=CC", "bond of atoms 2 and 3"),
            ("CC(F)O", "atom 2 (C)"),
            ("CC1CCC(C)CC1", "atom 2 (C), atom 5 (C)"),
        ],
    )
    def test_unspecified_stereo_of_a_flat_structure_is_refused(self, drawing, smiles, named):
        """Its conformers would be of several molecules."""
        with pytest.raises(ValueError, match=re.escape(named)):
            read_sdf(drawing(smiles), num_conformers=1)

    @pytest.mark.parametrize(
        "smiles",
        [
            "C[C@H](F)[C@@H](Cl)O",
            "C/C=C/C",
            "CN(CC)CCC",
            "CC(=O)Nc1ccc(O)cc1",
            "C1CCCCC1",
            "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
            "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
            "NC(=[NH2+])NC",
            "C1CC2CCC1C2",
            "C[S@](=O)CC",
            "c1ccc(cc1)-c1ccccc1",
            "CC1CCCCC1",
        ],
    )
    def test_ordinary_flat_structures_are_read(self, drawing, smiles):
        read_sdf(drawing(smiles), num_conformers=1)

    def test_a_structure_in_three_dimensions_specifies_its_stereo(self, tmp_path):
        Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed (extra `bespoke`)")
        from rdkit.Chem import rdDistGeom

        molecule = Chem.AddHs(Chem.MolFromSmiles("CC(F)C(Cl)O"))
        assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
        Chem.MolToMolFile(molecule, str(tmp_path / "given.sdf"), includeStereo=False)
        read = read_sdf(tmp_path / "given.sdf", num_conformers=4)
        volumes = [
            chiral_volume(conformer, centre, neighbors)
            for conformer in read.conformers
            for centre, neighbors in ((1, (0, 2, 3)), (3, (1, 4, 5)))
        ]
        signs = np.sign(volumes).reshape(-1, 2)
        assert len(signs) > 1 and (signs == signs[0]).all()

    @pytest.mark.parametrize("mark", ["crossed", "wavy"])
    def test_it_does_so_where_bonds_are_marked_as_open(self, tmp_path, mark):
        """As RDKit's own files of a SMILES without stereo, whose double bonds are crossed."""
        Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed (extra `bespoke`)")
        from rdkit.Chem import rdDistGeom

        molecule = Chem.AddHs(Chem.MolFromSmiles("CC=NC" if mark == "crossed" else "CC(F)Cl"))
        assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
        text = Chem.MolToMolBlock(molecule, includeStereo=False)
        if mark == "crossed":
            assert "  2  3  2  3\n" in text
            atoms = (0, 1, 2, 3)
        else:
            text = text.replace("  1  2  1  0\n", "  2  1  1  4\n")
            assert "  2  1  1  4\n" in text
            atoms = (0, 2, 3, 1)
        (tmp_path / "given.sdf").write_text(text)
        read = read_sdf(tmp_path / "given.sdf", num_conformers=8)
        assert len(read.conformers) == 8
        first, second, third, fourth = (read.conformers[:, atom] for atom in atoms)
        if mark == "crossed":
            normals = np.cross(first - second, third - second), np.cross(second - third, fourth - third)
            signs = np.sign((normals[0] * normals[1]).sum(axis=1))
        else:
            signs = np.sign(((first - fourth) * np.cross(second - fourth, third - fourth)).sum(axis=1))
        assert (signs == signs[0]).all()

    def test_stereo_that_the_structure_leaves_open(self, tmp_path):
        """RDKit does not see that of phosphorus: its conformers would be of either enantiomer."""
        Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed (extra `bespoke`)")
        from rdkit.Chem import rdDistGeom

        molecule = Chem.AddHs(Chem.MolFromSmiles("CP(F)CC"))
        assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
        Chem.MolToMolFile(molecule, str(tmp_path / "given.sdf"))
        assert len(read_sdf(tmp_path / "given.sdf", num_conformers=4).conformers) == 1

    def test_a_title_in_another_encoding(self, sdf):
        path = sdf("CO")
        path.write_bytes("Stoß".encode("latin-1") + path.read_bytes())
        assert read_sdf(path, num_conformers=1).name == "ligand"

    def test_bad_files(self, sdf, tmp_path):
        with pytest.raises(ValueError, match="no such file; an SDF"):
            read_sdf(tmp_path / "none.sdf")
        (tmp_path / "broken.sdf").write_text("nothing\n")
        with pytest.raises(ValueError, match=r"0 molecules|does not follow the mol format"):
            read_sdf(tmp_path / "broken.sdf")

    def test_the_reason_is_told(self, tmp_path):
        """Five bonds of a carbon atom."""
        Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed (extra `bespoke`)")
        (tmp_path / "ligand.sdf").write_text(
            Chem.MolToMolBlock(Chem.MolFromSmiles("CC(F)(F)(F)F", sanitize=False))
        )
        with pytest.raises(
            ValueError, match=r"valence for atom # 1 C, 5, is greater than permitted"
        ) as error:
            read_sdf(tmp_path / "ligand.sdf")
        assert "file of its own" not in str(error.value)

    def test_bonds_of_the_file_are_kept(self, sdf):
        molecule = read_sdf(sdf("CO"), num_conformers=1)
        assert set(molecule.bonds) == {(0, 1), (0, 2), (0, 3), (0, 4), (1, 5)}
        # Runs that were sampled before bonds were checked must not be taken for checked ones.
        unchecked = dataclasses.replace(molecule, bonds=())
        assert unchecked.fingerprint != molecule.fingerprint


def test_shapes_that_disagree():
    with pytest.raises(ValueError, match=r"conformers of x have shape \(1, 2, 3\)"):
        Molecule("x", np.array([8, 1, 1]), np.zeros((1, 2, 3)), 0, None, "")


class TestGfn2Dynamics:
    OPTIONS: ClassVar = {
        "charge": 0,
        "num_frames": 20,
        "steps_between_frames": 10,
        "equilibration_steps": 100,
    }

    def test_repeats_with_its_seed(self, water):
        first, again, other = (
            sample_gfn2(
                water.atomic_numbers, water.conformers[0], temperature=300.0, seed=seed, **self.OPTIONS
            )
            for seed in (1, 1, 2)
        )
        assert first.shape == (20, 3, 3)
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 0.01

    def test_hotter_is_wider(self, water):
        spreads = []
        for temperature in (30.0, 800.0):
            frames = sample_gfn2(
                water.atomic_numbers, water.conformers[0], temperature=temperature, seed=1, **self.OPTIONS
            )
            spreads.append(np.linalg.norm(frames[:, 1] - frames[:, 0], axis=1).std())
        assert 1.8 < spreads[1] / spreads[0] < 15
