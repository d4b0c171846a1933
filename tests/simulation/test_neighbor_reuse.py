"""Neighbours used again: the energies of a fresh search, and a search only when atoms have moved far."""

import numpy as np
import pytest
import torch
from ase import Atoms

from dkmp_plugin.simulation import DKMPCalculator
from dkmp_plugin.simulation.export import export_model
from dkmp_plugin.simulation.neighbor_reuse import NeighborList
from tests.simulation.conftest import write_checkpoint


@pytest.fixture(scope="module", params=[0.8, 0.0], ids=["smooth", "hard"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder / "model.ckpt", shell_overlap=request.param)
    export_model(folder / "model.ckpt", folder / "model.pt", dtype="float64")
    return folder / "model.pt"


@pytest.mark.parametrize("periodic", [False, True])
def test_energies_are_those_of_a_fresh_search(model, molecule, periodic):
    z, pos = molecule
    cell = [[6.5, 0, 0], [1.0, 6.0, 0], [0.5, -0.8, 7.0]] if periodic else None
    atoms = Atoms(z.numpy(), pos.numpy(), cell=cell, pbc=periodic)
    reusing, searching = DKMPCalculator(model, skin=1.0), DKMPCalculator(model)
    generator = np.random.default_rng(0)
    properties = ["energy", "forces", "stress"] if periodic else ["energy", "forces"]
    for step in range(25):
        if step == 20:
            atoms.wrap() if periodic else atoms.translate([0.0, 3.0, 0.0])
        if step == 22:
            atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
        atoms.positions += generator.normal(scale=0.04, size=pos.shape)
        for name in properties:
            np.testing.assert_allclose(
                reusing.get_property(name, atoms), searching.get_property(name, atoms), atol=1e-12
            )
    assert 2 <= reusing.model.neighbors.num_searches <= 12


def test_every_pair_that_comes_close_is_seen(model, molecule):
    """An atom far beyond the cutoff approaches in small steps, until it has crossed all shells."""
    z, pos = molecule
    atoms = Atoms([*z.numpy(), 8], [*pos.numpy(), [12.0, 0.3, 0.2]])
    reusing, searching = DKMPCalculator(model, skin=0.5), DKMPCalculator(model)
    alone = searching.get_property("energy", atoms)
    changes = []
    for _ in range(45):
        atoms.positions[-1, 0] -= 0.2
        energy = reusing.get_property("energy", atoms)
        assert energy == pytest.approx(searching.get_property("energy", atoms), abs=1e-12)
        changes.append(abs(energy - alone))
    assert max(changes) > 1e-4
    # Half of the skin is more than one step and less than two.
    assert reusing.model.neighbors.num_searches == 23


def test_atoms_at_rest_are_searched_once(model, molecule):
    z, pos = molecule
    calculator = DKMPCalculator(model, skin=0.5)
    atoms = Atoms(z.numpy(), pos.numpy())
    for shift in (0.0, 0.2, -40.0):  # a molecule that moves as a whole is at rest
        atoms.positions = pos.numpy() + shift
        atoms.positions[2] += 0.2 / np.sqrt(3)
        calculator.get_property("energy", atoms)
    assert calculator.model.neighbors.num_searches == 1
    atoms.positions[2] += 0.3
    calculator.get_property("energy", atoms)
    assert calculator.model.neighbors.num_searches == 2
    del atoms[-1]
    calculator.get_property("energy", atoms)
    assert calculator.model.neighbors.num_searches == 3


def test_impossible_skin(model):
    with pytest.raises(ValueError, match="skin"):
        DKMPCalculator(model, skin=-0.1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_constant_box_of_a_model_stays(tmp_path, molecule, dtype):
    """A model trained with ``box_vecs`` is periodic where it is given no box, with a skin as without."""
    z, pos = molecule
    box = [[6.5, 0, 0], [1.0, 6.0, 0], [0.5, -0.8, 7.0]]
    write_checkpoint(tmp_path / "box.ckpt", box_vecs=box)
    write_checkpoint(tmp_path / "open.ckpt")
    for name in ("box", "open"):
        export_model(tmp_path / f"{name}.ckpt", tmp_path / f"{name}.pt", dtype=dtype)
    atoms = Atoms(z.numpy(), pos.numpy())
    searching = DKMPCalculator(tmp_path / "box.pt")
    expected = searching.get_property("energy", atoms)
    assert abs(expected - DKMPCalculator(tmp_path / "open.pt").get_property("energy", atoms)) > 5e-5
    reusing = DKMPCalculator(tmp_path / "box.pt", skin=1.0)
    for cell in (None, 9.0):  # a box that is given takes its place
        if cell is not None:
            atoms.set_cell([cell] * 3)
            atoms.pbc = True
        for name in ("energy", "forces"):
            np.testing.assert_allclose(
                reusing.get_property(name, atoms), searching.get_property(name, atoms), atol=2e-6
            )


def test_the_limit_of_neighbours_holds(tmp_path, molecule):
    """Three atoms in a row, of which the one in the middle has two neighbours; the list sees more."""
    for limit in (1, 2):
        write_checkpoint(tmp_path / f"{limit}.ckpt", max_num_neighbors=limit, cutoff_upper=3.0)
    atoms = Atoms("CHHH", [[0, 0, 0], [2.5, 0, 0], [-2.5, 0, 0], [6.5, 0, 0]])
    for skin in (0.0, 2.0):
        DKMPCalculator(tmp_path / "2.ckpt", skin=skin).get_property("energy", atoms)
        with pytest.raises((RuntimeError, torch.jit.Error), match="has 2 neighbours within the cutoff of 3"):
            DKMPCalculator(tmp_path / "1.ckpt", skin=skin).get_property("energy", atoms)


def test_a_box_that_is_changed_in_place_is_noticed():
    pos, box = 4.0 * torch.rand(20, 3, generator=torch.Generator().manual_seed(0)), 4.0 * torch.eye(3)
    neighbors = NeighborList(3.0, 1, 0.0, 0.5)
    neighbors(pos, box)
    box *= 0.9
    expected = NeighborList(3.0, 1, 0.0, 0.5)(pos, box)
    assert torch.equal(neighbors(pos, box)[2], expected[2])
