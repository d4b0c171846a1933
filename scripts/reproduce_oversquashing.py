"""Proposition 3.1: |dh_i/dx_s| against the distance of atom s, for dkmp-c and local networks.

Chignolin (166 atoms). Untrained, of equal width and depth: what the architectures let through. Trained
(--trained, checkpoints of scripts/reproduce_s2ef.py): what networks that have learnt energies and forces make
of it. Prints the median over distance bins and draws it.

    python scripts/reproduce_oversquashing.py --trained runs/s2ef/chignolin-muon-norm__*__epochs.pt
"""

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from ase.io import read
from matplotlib.figure import Figure
from peer_settings import EQUIVARIANT_TRANSFORMER
from s2ef.models import TORCHMDNET_MODELS, build_model
from shared_data import data_folder
from torch import Tensor, nn
from torchmdnet.models.model import create_model
from torchmdnet_settings import TORCHMDNET_SETTINGS
from tqdm import tqdm

from dkmp_plugin.config import REVISIONS
from dkmp_plugin.evaluation.oversquashing import feature_jacobian
from dkmp_plugin.files import replaced_on_success

ROOT = Path(__file__).resolve().parent.parent
COMMON: Dict[str, Any] = {
    **TORCHMDNET_SETTINGS,
    "num_layers": 4,
    "embedding_dimension": 32,
    "num_heads": 4,
    "num_rbf": 16,
    "max_num_neighbors": 0,
    "derivative": False,
    "precision": 64,
}
LOCAL: Dict[str, Any] = {"cutoff_upper": 5.0, "max_num_neighbors": 64}
MODELS: Dict[str, Dict[str, Any]] = {
    "dkmp-c, 12 Å, one pass": {"model": "dkmp-c", "revision": REVISIONS[-1], "cutoff_upper": 12.0},
    "equivariant-transformer, 5 Å": {**LOCAL, **EQUIVARIANT_TRANSFORMER},
    "graph-network, 5 Å": {**LOCAL, "model": "graph-network"},
}
BIN = 2.0  # Å


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data = data_folder()
    parser.add_argument("--structure", type=Path, default=data / "chignolin/chignolin.pdb")
    parser.add_argument("--receivers", type=int, default=6, help="atoms i, evenly spread")
    parser.add_argument("--seeds", type=int, default=2, help="untrained networks of each kind; 0 for none")
    parser.add_argument("--trained", type=Path, nargs="+", default=[], help="ROW__MODEL__BUDGET.pt")
    parser.add_argument("--results", type=Path, default=ROOT / "scripts/results/oversquashing")
    arguments = parser.parse_args()
    if arguments.seeds < 1 and not arguments.trained:
        parser.error("nothing to compare: --seeds is below 1 and there is no --trained")
    return arguments


def untrained(seeds: int) -> Dict[str, List[nn.Module]]:
    """Representation models by the name that the figure shows."""
    networks: Dict[str, List[nn.Module]] = {}
    for name, changes in MODELS.items() if seeds > 0 else ():
        networks[name] = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            networks[name].append(create_model({**COMMON, **changes}).representation_model.eval())
    return networks


def trained(checkpoints: List[Path]) -> Dict[str, List[nn.Module]]:
    """Averaged weights of finished trainings, in float64."""
    networks: Dict[str, List[nn.Module]] = {}
    for path in checkpoints:
        row, _, rest = path.stem.partition("__")
        model, _, budget = rest.partition("__")
        if model not in TORCHMDNET_MODELS:
            raise SystemExit(f"{path}: {model!r} is none of {', '.join(TORCHMDNET_MODELS)}")
        contents = torch.load(path, weights_only=True)
        network = build_model(model, {**contents["settings"], "precision": 64})
        prefix = "module.model."
        weights = {
            name[len(prefix) :]: value
            for name, value in contents["averaged"].items()
            if name.startswith(prefix)
        }
        network.load_state_dict(weights)
        size = f"{contents['settings']['cutoff_upper']:g} Å, {contents['settings']['num_layers']} layers"
        # The row and the budget as well: several of them may have trained the same model.
        networks[f"{row}, equal {budget}: {model}, {size}"] = [network.model.representation_model.eval()]
    return networks


def median_response(
    networks: List[nn.Module], z: Tensor, pos: Tensor, receivers: np.ndarray, edges: np.ndarray, name: str
) -> List[Optional[float]]:
    """Median over each distance bin, relative to the response to the atom's own position."""
    distances, norms = [], []
    for network in networks:
        for receiver in tqdm(receivers, desc=name):
            norm = feature_jacobian(network, z, pos, int(receiver))
            norms.append((norm / norm[receiver]).numpy())
            distances.append((pos - pos[receiver]).norm(dim=1).numpy())
    bins = np.digitize(np.concatenate(distances), edges) - 1
    values = np.concatenate(norms)
    return [
        float(np.median(values[bins == b])) if (bins == b).sum() > 3 else None for b in range(len(edges) - 1)
    ]


def print_table(title: str, medians: Dict[str, List[Optional[float]]], edges: np.ndarray) -> None:
    width = max(32, *(len(name) + 2 for name in medians))
    print(f"{title}\n{'distance, Å':>12s}" + "".join(f"{name:>{width}s}" for name in medians))
    for b in range(len(edges) - 1):
        cells = (values[b] for values in medians.values())
        row = "".join(f"{'-' if cell is None else format(cell, '.1e'):>{width}s}" for cell in cells)
        print(f"{edges[b]:5.0f} -{edges[b + 1]:5.0f}{row}")


def draw(
    path: Path, structure: str, panels: Dict[str, Dict[str, List[Optional[float]]]], edges: np.ndarray
) -> None:
    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, medians) in zip(axes, panels.items(), strict=True):
        for name, values in medians.items():
            # Nothing arrives at all: below every axis that is logarithmic.
            shown = [np.nan if value is None or value == 0.0 else value for value in values]
            axis.semilogy((edges[:-1] + edges[1:]) / 2, shown, "o-", label=name)
        axis.set_xlabel("distance between atoms i and s, Å")
        depth = f" of {COMMON['num_layers']} layers" if title == "untrained" else ""
        axis.set_title(f"{structure}, {title} networks{depth}", fontsize="medium")
        axis.legend(fontsize="small")
    axes[0].set_ylabel("median |dh_i/dx_s| / |dh_i/dx_i|")
    with replaced_on_success(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.structure.is_file():
        raise SystemExit(f"there is no {arguments.structure}; set DKMP_DATA to the folder of the shared data")
    atoms = read(arguments.structure, index=0)
    z, pos = torch.tensor(atoms.numbers).long(), torch.tensor(atoms.positions)
    receivers = np.linspace(0, len(atoms) - 1, arguments.receivers).astype(int)
    edges = np.arange(0.0, 24.0 + BIN, BIN)
    kinds = {"untrained": untrained(arguments.seeds), "trained": trained(arguments.trained)}
    panels = {
        kind: {
            name: median_response(members, z, pos, receivers, edges, name)
            for name, members in networks.items()
        }
        for kind, networks in kinds.items()
        if networks
    }
    for title, medians in panels.items():
        print_table(title, medians, edges)
    with replaced_on_success(arguments.results / "results.json") as temporary:
        report = {
            "structure": arguments.structure.name,
            "receivers": arguments.receivers,
            "seeds": arguments.seeds,
            "bin_edges": edges.tolist(),
            "median": panels,
        }
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    draw(arguments.results / "jacobian.png", arguments.structure.stem, panels, edges)
    print(f"written: {arguments.results}")


if __name__ == "__main__":
    main()
