"""Proposition 3.1: |dh_i/dx_s| against the distance of atom s, for dkmp-c and local networks of equal depth.

Chignolin (166 atoms), untrained networks of equal width and depth: what the architectures let through, before
any training. Prints the median over distance bins and draws it.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, Dict

import numpy as np
import torch
from ase.io import read
from matplotlib.figure import Figure
from torchmdnet.models.model import create_model
from tqdm import tqdm

from dkmp_plugin.evaluation.oversquashing import feature_jacobian
from dkmp_plugin.files import replaced_on_success

ROOT = Path(__file__).resolve().parent.parent
COMMON: Dict[str, Any] = {
    "num_layers": 4,
    "embedding_dimension": 32,
    "num_heads": 4,
    "num_rbf": 16,
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "activation": "silu",
    "cutoff_lower": 0.0,
    "max_z": 20,
    "max_num_neighbors": 0,
    "derivative": False,
    "atom_filter": -1,
    "prior_model": None,
    "output_model": "Scalar",
    "reduce_op": "add",
    "precision": 64,
}
LOCAL: Dict[str, Any] = {"cutoff_upper": 5.0, "max_num_neighbors": 64, "neighbor_embedding": True}
MODELS: Dict[str, Dict[str, Any]] = {
    "dkmp-c, 12 Å, one pass": {"model": "dkmp-c", "cutoff_upper": 12.0},
    "equivariant-transformer, 5 Å": {
        **LOCAL,
        "model": "equivariant-transformer",
        "attn_activation": "silu",
        "distance_influence": "both",
        "vector_cutoff": True,
    },
    "graph-network, 5 Å": {**LOCAL, "model": "graph-network", "aggr": "add"},
}
BIN = 2.0  # Å


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data = Path(os.environ.get("DKMP_DATA", ROOT.parent / "shared/data"))
    parser.add_argument("--structure", type=Path, default=data / "chignolin/chignolin.pdb")
    parser.add_argument("--receivers", type=int, default=6, help="atoms i, evenly spread")
    parser.add_argument("--seeds", type=int, default=2, help="networks of each kind")
    parser.add_argument("--results", type=Path, default=ROOT / "scripts/results/oversquashing")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.structure.is_file():
        raise SystemExit(f"there is no {arguments.structure}; set DKMP_DATA to the folder of the shared data")
    atoms = read(arguments.structure, index=0)
    z, pos = torch.tensor(atoms.numbers).long(), torch.tensor(atoms.positions)
    receivers = np.linspace(0, len(atoms) - 1, arguments.receivers).astype(int)
    edges = np.arange(0.0, 24.0 + BIN, BIN)
    medians: Dict[str, list] = {}
    for name, changes in MODELS.items():
        distances, norms = [], []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            model = create_model({**COMMON, **changes}).representation_model.eval()
            for receiver in tqdm(receivers, desc=f"{name}, seed {seed}"):
                norm = feature_jacobian(model, z, pos, int(receiver))
                # Relative to the response to the atom's own position, so that networks can be compared.
                norms.append((norm / norm[receiver]).numpy())
                distances.append((pos - pos[receiver]).norm(dim=1).numpy())
        bins = np.digitize(np.concatenate(distances), edges) - 1
        values = np.concatenate(norms)
        medians[name] = [
            float(np.median(values[bins == b])) if (bins == b).sum() > 3 else None
            for b in range(len(edges) - 1)
        ]
    print(f"{'distance, Å':>12s}" + "".join(f"{name:>32s}" for name in MODELS))
    for b in range(len(edges) - 1):
        cells = "".join(
            f"{'-' if medians[name][b] is None else format(medians[name][b], '.1e'):>32s}" for name in MODELS
        )
        print(f"{edges[b]:5.0f} -{edges[b + 1]:5.0f}{cells}")
    with replaced_on_success(arguments.results / "results.json") as temporary:
        report = {
            "structure": arguments.structure.name,
            "receivers": arguments.receivers,
            "seeds": arguments.seeds,
            "bin_edges": edges.tolist(),
            "median": medians,
        }
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in medians.items():
        # Nothing arrives at all: below every axis that is logarithmic.
        shown = [np.nan if value is None or value == 0.0 else value for value in values]
        axes.semilogy((edges[:-1] + edges[1:]) / 2, shown, "o-", label=name)
    axes.set_xlabel("distance between atoms i and s, Å")
    axes.set_ylabel("median |dh_i/dx_s| / |dh_i/dx_i|")
    axes.set_title("chignolin, untrained networks of 4 layers", fontsize="medium")
    axes.legend(fontsize="small")
    with replaced_on_success(arguments.results / "jacobian.png") as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    print(f"written: {arguments.results}")


if __name__ == "__main__":
    main()
