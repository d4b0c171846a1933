"""Every model of the comparison: forces are the slope of the energy, the structures of a batch do not mix."""

import pytest
import torch
import yaml

from tests.conftest import ROOT, ethanol

PROTOCOL = yaml.safe_load((ROOT / "scripts/s2ef/protocol.yaml").read_text())
# schnetpack's imports warn; it is installed for the comparison only.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PERIODIC = ("dkmp-c", "equivariant-transformer", "painn")


@pytest.fixture
def build(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from s2ef.models import build_model

    def build(name):
        changes = {"embedding_dimension": 16, "num_layers": 2, "precision": 64}
        settings = {**PROTOCOL["common"], **PROTOCOL["models"][name], **changes}
        torch.manual_seed(0)
        try:
            return build_model(name, settings).double().eval()
        except ImportError as error:
            pytest.skip(f"{name}: {error}; see scripts/install_benchmark_peers.sh")

    return build


def slope(model, z, pos, box, direction, step=1e-4):
    batch = torch.zeros_like(z)
    ends = [model(z, pos + sign * step * direction, batch, box)[0].item() for sign in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize(
    "name, periodic", [(name, False) for name in PROTOCOL["models"]] + [(name, True) for name in PERIODIC]
)
def test_forces_are_the_slope_of_the_energy(build, name, periodic):
    z, pos = ethanol()
    # Smaller than twice the cutoff would need several images, which torchmd-net does not know.
    box = torch.eye(3, dtype=torch.float64)[None] * 10.5 if periodic else None
    model = build(name)
    _, forces = model(z, pos.clone(), torch.zeros_like(z), box)
    direction = torch.randn(pos.shape, dtype=pos.dtype, generator=torch.Generator().manual_seed(1))
    expected = -(forces * direction).sum().item()
    assert slope(model, z, pos, box, direction) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", list(PROTOCOL["models"]))
def test_a_batch_gives_what_its_structures_give_alone(build, name):
    z, pos = ethanol()
    model = build(name)
    other = pos + 0.1 * torch.randn(pos.shape, dtype=pos.dtype, generator=torch.Generator().manual_seed(2))
    energies, forces = model(
        z.repeat(2), torch.cat([pos, other]), torch.arange(2).repeat_interleave(len(z)), None
    )
    for index, alone in enumerate((pos, other)):
        energy, force = model(z, alone.clone(), torch.zeros_like(z), None)
        torch.testing.assert_close(energies[index : index + 1], energy)
        torch.testing.assert_close(forces.view(2, -1, 3)[index], force)


@pytest.mark.parametrize("name", [name for name in PERIODIC if name != "dkmp-c"])
def test_moving_an_atom_by_the_box_changes_nothing(build, name):
    z, pos = ethanol()
    box = torch.eye(3, dtype=torch.float64)[None] * 10.5
    model = build(name)
    moved = pos.clone()
    moved[3] += box[0, 1]
    batch = torch.zeros_like(z)
    torch.testing.assert_close(model(z, moved, batch, box)[0], model(z, pos.clone(), batch, box)[0])
