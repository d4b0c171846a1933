"""Files, molecules and stacks that do not fit: errors that say what was given and what to do."""

import json
import pickle
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dkmp_plugin.simulation import load_system, stack
from dkmp_plugin.simulation.export import export_model
from dkmp_plugin.simulation.model_file import FORMAT_VERSION, load_model_file, read_model_info
from dkmp_plugin.simulation.model_source import load_model
from dkmp_plugin.simulation.propagator_file import export_propagator
from dkmp_plugin.training.checkpoint import load_checkpoint
from tests.conftest import ROOT, hyper_parameters
from tests.simulation.conftest import write_checkpoint


class TestFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(ValueError, match="no such file"):
            load_model_file(tmp_path / "none.pt")
        with pytest.raises(ValueError, match="no such file"):
            load_checkpoint(tmp_path / "none.ckpt")

    def test_truncated(self, model_path, checkpoint, tmp_path):
        for source in (model_path, checkpoint):
            damaged = tmp_path / source.name
            damaged.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
            reader = load_model_file if source is model_path else load_checkpoint
            with pytest.raises(ValueError, match="read"):
                reader(damaged)

    def test_torchscript_that_is_not_ours(self, tmp_path):
        path = tmp_path / "foreign.pt"
        torch.jit.script(nn.Linear(2, 2)).save(str(path))
        with pytest.raises(ValueError, match="was not written by dkmp_plugin"):
            load_model_file(path)

    def test_pickle_that_runs_code(self, tmp_path):
        class Hostile:
            def __reduce__(self):
                return open, (str(tmp_path / "was_here"), "w")

        path = tmp_path / "hostile.ckpt"
        torch.save({"hyper_parameters": hyper_parameters(), "state_dict": Hostile()}, path)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            load_checkpoint(path)
        path.write_bytes(pickle.dumps(Hostile()))
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            load_checkpoint(path)
        assert not (tmp_path / "was_here").exists()

    def test_checkpoint_of_another_architecture(self, tmp_path):
        path = tmp_path / "other.ckpt"
        torch.save({"hyper_parameters": {"model": "tensornet"}, "state_dict": {}}, path)
        with pytest.raises(ValueError, match="tensornet"):
            load_checkpoint(path)

    def test_newer_format(self, model_path, tmp_path):
        path = tmp_path / "newer.pt"
        with zipfile.ZipFile(model_path) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name.endswith("dkmp_plugin.json"):
                    content = json.dumps({**json.loads(content), "format_version": FORMAT_VERSION + 1})
                new.writestr(name, content)
        with pytest.raises(ValueError, match="update dkmp_plugin"):
            read_model_info(path)

    def test_export_holds_no_paths_of_this_machine(self, model_path):
        with zipfile.ZipFile(model_path) as archive:
            assert not any(str(ROOT).encode() in archive.read(name) for name in archive.namelist())

    def test_export_of_an_exported_model(self, model_path, tmp_path):
        for name in ("model.pt", "model.ckpt"):
            (tmp_path / name).write_bytes(model_path.read_bytes())
            with pytest.raises(ValueError, match=rf"{name} is an exported model; give the checkpoint"):
                export_model(tmp_path / name, tmp_path / "again.pt")

    def test_failed_export_leaves_the_old_file(self, tmp_path):
        write_checkpoint(tmp_path / "untrained.ckpt", trained_elements=())
        output = tmp_path / "model.pt"
        output.write_bytes(b"old")
        with pytest.raises(ValueError, match="has not been trained"):
            export_model(tmp_path / "untrained.ckpt", output)
        assert output.read_bytes() == b"old"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "untrained.ckpt"]

    def test_unknown_energy_unit(self, tmp_path):
        write_checkpoint(tmp_path / "model.ckpt", dataset={})
        with pytest.raises(ValueError, match="energy_unit"):
            export_model(tmp_path / "model.ckpt", tmp_path / "model.pt")

    def test_elements_of_an_earlier_training(self, tmp_path):
        """Fine-tuned on methane: what energies of water would be relative to is no longer known."""
        dataset = {"energy_unit": "eV", "reference_energies": {1: -13.6, 6: -1027.0}}
        write_checkpoint(tmp_path / "model.ckpt", trained_elements=(1, 6, 8), dataset=dataset)
        info = export_model(tmp_path / "model.ckpt", tmp_path / "model.pt")
        assert info.elements == [1, 6]
        assert info.reference_energies == {"1": -13.6, "6": -1027.0}

    def test_prior_that_torchscript_cannot_compile(self, tmp_path):
        scales = {"distance_scale": 1e-10, "energy_scale": 1.6e-19, "atomic_number": list(range(20))}
        prior = {"ZBL": {"cutoff_distance": 3.0, "max_num_neighbors": 50, **scales}}
        write_checkpoint(tmp_path / "zbl.ckpt", prior_model=[prior])
        with pytest.raises(ValueError, match="prior_model, ZBL, cannot be compiled"):
            export_model(tmp_path / "zbl.ckpt", tmp_path / "zbl.pt")
        assert not (tmp_path / "zbl.pt").exists()

    @pytest.mark.parametrize(
        ("key", "changes"),
        [
            ("output_model", {"output_model": "ElectronicSpatialExtent", "derivative": False}),
            ("reduce_op", {"reduce_op": "mean"}),
        ],
    )
    def test_model_that_is_no_potential(self, tmp_path, key, changes):
        write_checkpoint(tmp_path / "model.ckpt", **changes)
        with pytest.raises(ValueError, match=rf"model\.ckpt.*{key}: {changes[key]}"):
            export_model(tmp_path / "model.ckpt", tmp_path / "model.pt")
        assert not (tmp_path / "model.pt").exists()

    @pytest.mark.parametrize(("mean", "accepted"), [(-540.0, False), (0.2, False), (1e-6, True)])
    def test_mean_that_is_added_once_to_a_structure(self, tmp_path, mean, accepted):
        """What ``standardize: true`` leaves: a potential only where reference energies left no mean."""
        path = tmp_path / "model.ckpt"
        write_checkpoint(path, standardize=True)
        contents = torch.load(path, weights_only=True)
        contents["state_dict"]["model.mean"] = torch.tensor(mean)
        contents["state_dict"]["model.std"] = torch.tensor(12.0)
        torch.save(contents, path)
        if accepted:
            export_model(path, tmp_path / "model.pt")
            return
        for use in (lambda: export_model(path, tmp_path / "model.pt"), lambda: load_model(path)):
            with pytest.raises(
                ValueError, match=r"model\.ckpt.*standardize: true.*train with standardize: false"
            ):
                use()
        assert not (tmp_path / "model.pt").exists()

    @pytest.mark.parametrize("export", [export_model, export_propagator])
    def test_output_that_is_a_folder(self, checkpoint, tmp_path, export):
        with pytest.raises(ValueError, match=r"is a folder, the name of a file .* such as \S+/model\.pt"):
            export(checkpoint, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_hyper_parameters_of_a_script(self, tmp_path):
        """A Path and numbers of NumPy are no code."""
        write_checkpoint(tmp_path / "model.ckpt", log_dir=Path("runs"), lr=np.float64(1e-3), seed=np.int64(1))
        assert export_model(tmp_path / "model.ckpt", tmp_path / "model.pt").elements == [1, 6, 7, 8]

    @pytest.mark.parametrize("content", [b"lr: 1", b"<System/>", b"\x80\x81"])
    def test_file_that_is_no_system(self, tmp_path, content):
        (tmp_path / "system.xml").write_bytes(content)
        with pytest.raises(ValueError, match=r"system\.xml cannot be read as a serialised System"):
            load_system(tmp_path / "system.xml")

    def test_unknown_precision(self, checkpoint, tmp_path):
        with pytest.raises(ValueError, match="float32"):
            export_model(checkpoint, tmp_path / "model.pt", dtype="float16")


class TestStack:
    @pytest.mark.parametrize(
        ("package", "version"), [("openmm", "8.6.1"), ("torch", "2.10.0"), ("openmmtorch", None)]
    )
    def test_torchforce_on_a_stack_known_to_crash(self, package, version, monkeypatch):
        real = metadata.version

        def installed(name):
            if name != package:
                return real(name)
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(stack, "version", installed)
        with pytest.raises(RuntimeError, match=r"torchforce") as error:
            stack.require_torchforce()
        assert package in str(error.value)
        assert stack.TORCHFORCE_PINS[package] in str(error.value)

    def test_each_stack_has_its_backend(self, monkeypatch):
        installed = {"torch": "2.13.0", "openmm": "8.6.1", "openmmml": "1.8", "torchmd-net": "3.1.0"}
        missing = metadata.PackageNotFoundError

        def lookup(name):
            if name not in installed:
                raise missing(name)
            return installed[name]

        monkeypatch.setattr(stack, "version", lookup)
        assert stack.prepare_backend("auto") == "pythonforce"
        with pytest.raises(RuntimeError, match="openmmtorch is not installed"):
            stack.prepare_backend("torchforce")
        installed["openmm"] = "8.4.0"
        with pytest.raises(RuntimeError, match=r"PythonForce needs openmm 8\.6.*8\.4\.0"):
            stack.prepare_backend("pythonforce")
        with pytest.raises(RuntimeError, match="torchforce"):
            stack.prepare_backend("auto")


class TestMolecules:
    @pytest.fixture(autouse=True)
    def openmm_modules(self):
        stack.prepare_backend()

    def topology(self, *numbers, box=None):
        from openmm import app, unit

        topology = app.Topology()
        residue = topology.addResidue("MOL", topology.addChain())
        for number in numbers:
            element = None if number is None else app.Element.getByAtomicNumber(number)
            topology.addAtom("A", element, residue)
        if box is not None:
            topology.setUnitCellDimensions([box] * 3 * unit.nanometer)
        return topology

    def add(self, model_path, topology, atoms=None, **arguments):
        import openmm
        from openmmml import MLPotential

        system = openmm.System()
        for _ in topology.atoms():
            system.addParticle(1.0)
        potential = MLPotential("dkmp", modelPath=str(model_path))
        potential._impl.addForces(topology, system, atoms, 0, **arguments)
        return system

    def test_element_not_covered(self, model_path):
        with pytest.raises(ValueError, match=r"Cl.*trained on H, C, N, O"):
            self.add(model_path, self.topology(6, 17))

    def test_atom_without_element(self, model_path):
        with pytest.raises(ValueError, match="has no element"):
            self.add(model_path, self.topology(6, None))

    @pytest.mark.parametrize(
        ("atoms", "message"), [([], "empty"), ([0, 5], "index 5"), ([-1], "index -1"), ([1, 1], "twice")]
    )
    def test_subset(self, model_path, atoms, message):
        with pytest.raises(ValueError, match=message):
            self.add(model_path, self.topology(6, 1, 1), atoms)

    def test_charge(self, model_path):
        from openmm import unit

        for neutral in (0, 0.0, 0 * unit.elementary_charge):
            self.add(model_path, self.topology(6, 1), charge=neutral)
        with pytest.raises(ValueError, match=r"charge: 1 was given.*neutral"):
            self.add(model_path, self.topology(6, 1), charge=1)

    @pytest.mark.parametrize(("trained", "accepted"), [(1, [1]), (-2, [-2]), (None, [])])
    def test_charge_that_the_model_was_trained_at(self, tmp_path, trained, accepted):
        write_checkpoint(tmp_path / "model.ckpt", dataset={"energy_unit": "eV", "total_charge": trained})
        export_model(tmp_path / "model.ckpt", tmp_path / "model.pt")
        self.add(tmp_path / "model.pt", self.topology(6, 1))
        for charge in (-2, 0, 1):
            if charge in accepted:
                self.add(tmp_path / "model.pt", self.topology(6, 1), charge=charge)
            else:
                with pytest.raises(ValueError, match=f"charge: {charge} was given"):
                    self.add(tmp_path / "model.pt", self.topology(6, 1), charge=charge)

    def test_molecules_that_the_model_was_not_trained_on(self, tmp_path):
        dataset = {"energy_unit": "eV", "compositions": [{"1": 4, "6": 1}]}
        write_checkpoint(tmp_path / "model.ckpt", dataset=dataset)
        export_model(tmp_path / "model.ckpt", tmp_path / "model.pt")
        self.add(tmp_path / "model.pt", self.topology(6, 1, 1, 1, 1))
        with pytest.warns(UserWarning, match=r"the atoms are CH2, but model\.pt was trained on CH4 alone"):
            self.add(tmp_path / "model.pt", self.topology(6, 1, 1))

    def test_charge_that_the_force_field_sees(self, model_path):
        """The model was trained at charge 0; the force field says that the modelled atoms carry +1."""
        import openmm
        from openmmml import MLPotential

        system, nonbonded = openmm.System(), openmm.NonbondedForce()
        for charge in (0.7, 0.3, -0.4):
            system.addParticle(1.0)
            nonbonded.addParticle(charge, 0.1, 0.0)
        system.addForce(nonbonded)
        potential = MLPotential("dkmp", modelPath=str(model_path))
        topology = self.topology(6, 1, 1)
        with pytest.raises(ValueError, match=r"charge \+1, but model\.pt was trained at charge \+0"):
            potential.createMixedSystem(topology, system, [0, 1])
        potential.createMixedSystem(topology, system, [0, 1], charge=0)
        potential.createMixedSystem(topology, system, [0, 2])  # part of a molecule: +0.3

    def test_unknown_arguments(self, model_path):
        from openmmml import MLPotential

        with pytest.raises(ValueError, match="chargee"):
            self.add(model_path, self.topology(6, 1), chargee=1)
        with pytest.raises(ValueError, match="model_path"):
            MLPotential("dkmp", model_path="x")
        with pytest.raises(ValueError, match="backend"):
            MLPotential("dkmp", backend="jax")

    def test_molecule_that_would_meet_its_image(self, model_path):
        with pytest.raises(ValueError, match=r"10\.0 Å wide.*12\.0 Å"):
            self.add(model_path, self.topology(6, 1, 1, box=1.0), [0, 1])

    def mm_system(self, num_atoms, method, box=2.0):
        """A System whose default box is ``box`` nm wide."""
        import openmm

        system, nonbonded = openmm.System(), openmm.NonbondedForce()
        for _ in range(num_atoms):
            system.addParticle(1.0)
            nonbonded.addParticle(0.0, 0.1, 0.0)
        nonbonded.setNonbondedMethod(getattr(nonbonded, method))
        nonbonded.setCutoffDistance(0.2)
        system.addForce(nonbonded)
        system.setDefaultPeriodicBoxVectors([box, 0, 0], [0, box, 0], [0, 0, box])
        return system

    def test_topology_of_another_size(self, model_path):
        """Of five particles the topology's atoms would be the first three, whichever they are."""
        from openmmml import MLPotential

        potential = MLPotential("dkmp", modelPath=str(model_path))
        with pytest.raises(ValueError, match="topology has 3 atoms, the System 5 particles"):
            potential.createMixedSystem(self.topology(6, 1, 1), self.mm_system(5, "NoCutoff"), [0, 1])

    @pytest.mark.parametrize("topology_box", [None, 4.0])
    def test_box_of_a_mixed_system(self, model_path, topology_box):
        """What counts is the box that the simulation starts in, not the topology's."""
        from openmmml import MLPotential

        potential = MLPotential("dkmp", modelPath=str(model_path))
        topology = self.topology(6, 1, 1, box=topology_box)
        for box in (1.0, 0.5):
            with pytest.raises(ValueError, match=rf"System's.* {10 * box:.1f} Å wide.*12\.0 Å"):
                potential.createMixedSystem(topology, self.mm_system(3, "CutoffPeriodic", box), [0, 1])
        mixed = potential.createMixedSystem(topology, self.mm_system(3, "CutoffPeriodic"), [0, 1])
        (force,) = [force for force in mixed.getForces() if force.getName() == "DKMP"]
        assert force.usesPeriodicBoundaryConditions()

    @pytest.mark.parametrize("topology_box", [0.1, 4.0])  # 1 Å: what some programs write without a box
    def test_an_open_mixed_system_stays_open(self, model_path, topology_box):
        from openmmml import MLPotential

        potential = MLPotential("dkmp", modelPath=str(model_path))
        topology = self.topology(6, 1, 1, box=topology_box)
        mixed = potential.createMixedSystem(topology, self.mm_system(3, "NoCutoff"), [0, 1])
        assert not mixed.usesPeriodicBoundaryConditions()

    def test_bundled_model_refuses_other_elements(self):
        from openmmml import MLPotential

        with pytest.raises(ValueError, match=r"O.*trained on H, C"):
            MLPotential("dkmp").createSystem(self.topology(6, 8))

    def test_nan_positions_after_other_models_have_come_and_gone(self, model_path):
        """TorchForce's frozen module once pointed into freed memory, and the error ended the process."""
        fixture = ROOT / "tests" / "simulation" / "fixtures" / "format_1.pt"
        for box in (None, 6 * torch.eye(3)):
            pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
            for _ in range(2):
                energy = load_model_file(fixture)[0](torch.tensor([6, 1]), pos, box)
                torch.autograd.grad(energy, pos)
        self.test_nan_positions(model_path)

    def test_the_module_of_a_force_has_nothing_to_call(self, model_path):
        from dkmp_plugin.simulation.force_module import OpenMMEnergy, scripted

        model, info = load_model_file(model_path)
        module = scripted(OpenMMEnergy(model, info, torch.tensor([6, 1]), None))
        for kind in ("prim::CallMethod", "prim::CallFunction"):
            assert not module.graph.findAllNodes(kind)
        # Weights are not constants: they must move with the module.
        assert sum(tensor.numel() for tensor in module.parameters()) > 1000

    def test_nan_positions(self, model_path):
        import openmm

        system = self.add(model_path, self.topology(6, 1))
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions([[0, 0, 0], [float("nan"), 0, 0]])
        with pytest.raises(openmm.OpenMMException, match=r"(?i)nan|finite"):
            context.getState(getEnergy=True)
