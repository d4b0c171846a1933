"""The one table of DKMP hyper-parameters: YAML keys, command-line flags, defaults, validation, help.

torchmd-net's own keys are used wherever one exists (``cutoff_upper``, ``num_layers``,
``embedding_dimension``, ``num_rbf``, ``rbf_type``, ``num_heads``, ``max_num_neighbors``); this table
holds only the keys that torchmd-net does not know.
"""

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from dkmp_plugin.units import ENERGY_UNITS

DKMP_MODELS: Tuple[str, ...] = ("dkmp-c", "dkmp-r")
REVISIONS: Tuple[int, ...] = (1, 2, 3, 4, 5, 6)
CANONICAL_FRAMES: Tuple[str, ...] = ("none", "principal", "first", "mean")
ATTENTION_VARIANTS: Tuple[str, ...] = ("split", "literal")
PARTITIONS: Tuple[str, ...] = ("dilated", "one-shot", "random", "reuse-25")
LR_SCHEDULES: Tuple[str, ...] = ("plateau", "cosine", "linear")
OPTIMIZERS: Tuple[str, ...] = ("adamw", "muon")


def spline_degree(revision: int) -> int:
    """Degree of the splines that the radial filters of a revision of dkmp-c are stored as."""
    return 5 if revision > 5 else 3


@dataclass(frozen=True)
class Hyperparameter:
    """One YAML key of ours, with everything that is derived from it."""

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    choices: Optional[Tuple[Any, ...]] = None

    @property
    def flag(self) -> str:
        """Command-line flag in torchmd-net's style."""
        return "--" + self.name.replace("_", "-")

    @property
    def model(self) -> Optional[str]:
        """The one DKMP model that has a use for it, which the help begins with; None for both."""
        name = self.help.partition(":")[0]
        return name if name in DKMP_MODELS else None


def boolean(text: str) -> bool:
    """``true`` or ``false`` of a command line.

    Raises:
        ValueError: anything else.
    """
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} was given, true or false is expected")
    return text.lower() == "true"


HYPERPARAMETERS: Tuple[Hyperparameter, ...] = (
    Hyperparameter(
        "num_shells",
        int,
        None,
        "dkmp-c: number of radius shells; layer t sees shell t mod num_shells (default: num_layers)",
    ),
    Hyperparameter(
        "shell_overlap",
        float,
        None,
        "dkmp-c: width in angstrom over which neighbouring shells blend smoothly; 0 is the paper's hard "
        "partition (default: 1, or the shell width where that is smaller)",
    ),
    Hyperparameter(
        "revision",
        int,
        REVISIONS[-1],
        f"dkmp-c: {REVISIONS[-1]}; 1 for the layers and initial weights of checkpoints that lack this key, "
        f"2 to {REVISIONS[-2]} for those of checkpoints that name them",
        REVISIONS,
    ),
    Hyperparameter(
        "canonical_frame",
        str,
        "principal",
        "dkmp-r: orientation in which the model sees a structure; 'principal' (its own axes), 'first' "
        "(superposed on the first frame of the trajectory) and 'mean' (superposed on the mean structure of "
        "the training runs, dataset_arg reference: mean) make it rotation-equivariant, 'none' takes "
        "positions as they are; 'first' and 'mean' also show the model how far atoms are from that reference",
        CANONICAL_FRAMES,
    ),
    Hyperparameter(
        "attention_variant",
        str,
        "split",
        "dkmp-r: 'split' gives half of the heads to elements and half to structure, 'literal' adds two full "
        "attentions as the paper writes them",
        ATTENTION_VARIANTS,
    ),
    Hyperparameter(
        "num_frequencies",
        int,
        32,
        "dkmp-r: plane waves of the coordinate embedding; 0 is the paper's linear embedding",
    ),
    Hyperparameter(
        "memory",
        boolean,
        False,
        "dkmp-r: the prediction also depends on the displacement since the frame before (dataset_arg "
        "previous: true), in proportion, by a factor learned per element",
    ),
    Hyperparameter(
        "partition",
        str,
        "dilated",
        "dkmp-r: which distance ranks each layer sees; all but 'dilated' are there for comparison",
        PARTITIONS,
    ),
    Hyperparameter(
        "displacement_scale",
        float,
        1.0,
        "dkmp-r: size in angstrom of a typical displacement; the output head predicts in units of it",
    ),
    Hyperparameter(
        "lr_schedule",
        str,
        "plateau",
        "'plateau' is torchmd-net's own schedule; 'cosine' (half of one) and 'linear' lower it from lr to "
        "lr_min over the whole training (DKMP models only)",
        LR_SCHEDULES,
    ),
    Hyperparameter(
        "optimizer",
        str,
        "adamw",
        "'adamw' is torchmd-net's own; 'muon' moves the matrices by Muon, their rows balanced, the rest by "
        "AdamW, at the same lr (DKMP models only)",
        OPTIMIZERS,
    ),
    Hyperparameter(
        "energy_unit",
        str,
        None,
        "unit of the energies in the training data (default: what the dataset declares)",
        ENERGY_UNITS,
    ),
)


# torchmd-net's keys for parts that only its own models have, with its defaults.
_KEYS_OF_OTHER_MODELS: Dict[str, Any] = {
    "neighbor_embedding": False,
    "aggr": "add",
    "distance_influence": "both",
    "vector_cutoff": False,
    "equivariance_invariance_group": "O(3)",
    "output_mlp_num_layers": 0,
}


def ignored_keys(args: Mapping[str, Any]) -> List[str]:
    """Keys that are set, not as by default, though the model has no part they belong to.

    For DKMP models some of torchmd-net's keys and those of the other one, for torchmd-net's own models ours.
    """
    others = [entry for entry in HYPERPARAMETERS if entry.model not in (None, args["model"])]
    keys = {**_KEYS_OF_OTHER_MODELS, **{entry.name: entry.default for entry in others}}
    # dkmp-r checkpoints older than the key say that their revision is 1.
    keys.pop("revision", None)
    if args["model"] not in DKMP_MODELS:
        # What the energies mean is worth recording with any model; the default of revision changes.
        keys = {key: given for key, given in defaults().items() if key not in ("energy_unit", "revision")}
    return [key for key, default in keys.items() if args.get(key, default) != default]


def shell_settings(args: Mapping[str, Any]) -> Tuple[int, float]:
    """Number of shells and their overlap in Å, with the defaults filled in.

    Args:
        args: torchmd-net hyper-parameters, ours included.

    Returns:
        ``(num_shells, shell_overlap)``.
    """
    num_shells = args.get("num_shells")
    num_shells = args["num_layers"] if num_shells is None else num_shells
    overlap = args.get("shell_overlap")
    if overlap is None:
        overlap = min(1.0, float(args["cutoff_upper"]) / num_shells)
    return int(num_shells), float(overlap)


def _require(condition: bool, key: str, given: Any, expected: str) -> None:
    if not condition:
        raise ValueError(
            f"{key}: {given!r} was given, {expected} is expected; change it in the configuration"
        )


def validate(args: Mapping[str, Any]) -> None:
    """Refuse impossible hyper-parameters of a DKMP model before anything is built.

    Args:
        args: torchmd-net hyper-parameters, ours included.

    Raises:
        ValueError: Naming the key, what was given, and what is expected.
    """
    for key in ("num_layers", "embedding_dimension", "num_heads", "num_rbf"):
        value = args[key]
        _require(isinstance(value, int) and value >= 1, key, value, "an integer of at least 1")
    width, heads = args["embedding_dimension"], args["num_heads"]
    _require(width % 2 == 0, "embedding_dimension", width, "an even number")
    _require(width % heads == 0, "num_heads", heads, f"a divisor of embedding_dimension ({width})")
    _require(args["precision"] in (32, 64), "precision", args["precision"], "32 or 64")
    unit = args.get("energy_unit")
    _require(unit is None or unit in ENERGY_UNITS, "energy_unit", unit, f"one of {', '.join(ENERGY_UNITS)}")
    schedule = args.get("lr_schedule", "plateau")
    _require(schedule in LR_SCHEDULES, "lr_schedule", schedule, f"one of {', '.join(LR_SCHEDULES)}")
    optimizer = args.get("optimizer", "adamw")
    _require(optimizer in OPTIMIZERS, "optimizer", optimizer, f"one of {', '.join(OPTIMIZERS)}")
    # torchmd-net's keys for what its own models can do. Ignored, they would average over charges and spins.
    for key in ("charge", "spin"):
        _require(not args.get(key), key, args.get(key), "false (DKMP models have no such input)")
    atom_filter = args.get("atom_filter", -1)
    _require(atom_filter in (None, -1), "atom_filter", atom_filter, "-1 (all atoms count)")
    _require_box(args.get("box_vecs"))
    if args["model"] == "dkmp-c":
        _validate_shells(args)
    else:
        _validate_displacements(args)


def validate_training(args: Mapping[str, Any]) -> None:
    """Refuse settings of a training of a DKMP model that contradict each other.

    Not part of :func:`validate`: trained models may be loaded for energies alone.

    Args:
        args: torchmd-net hyper-parameters, ours included.

    Raises:
        ValueError: Forces have a weight, but none are computed: torchmd-net would report errors of zero.
    """
    weight = args.get("neg_dy_weight", 0.0)
    if args["model"] == "dkmp-c" and weight > 0 and not args["derivative"]:
        raise ValueError(
            f"derivative: {args['derivative']!r} was given, but neg_dy_weight: {weight!r} asks for forces; "
            "give derivative: true, or neg_dy_weight: 0 to train on energies alone"
        )


def _validate_displacements(args: Mapping[str, Any]) -> None:
    head = args["output_model"]
    _require(head == "Displacement", "output_model", head, "Displacement (dkmp-r predicts no energy)")
    _require(not args["derivative"], "derivative", args["derivative"], "false (dkmp-r has no forces)")
    # torchmd-net would take mean and deviation over the components of all displacements together.
    standardize = args.get("standardize", False)
    _require(not standardize, "standardize", standardize, "false (use displacement_scale instead)")
    scale = args.get("displacement_scale", 1.0)
    is_length = isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 < scale < math.inf
    _require(is_length, "displacement_scale", scale, "a positive length in angstrom")
    memory = args.get("memory", False)
    _require(isinstance(memory, bool), "memory", memory, "true or false")
    waves = args.get("num_frequencies", 32)
    _require(isinstance(waves, int) and waves >= 0, "num_frequencies", waves, "an integer of at least 0")
    neighbors = args["max_num_neighbors"]
    _require(
        isinstance(neighbors, int) and neighbors >= args["num_layers"],
        "max_num_neighbors",
        neighbors,
        f"an integer, at least one neighbour for each of the {args['num_layers']} layers",
    )


def _require_box(box: Any) -> None:
    if box is None:
        return
    try:
        vectors = np.array(box, dtype=float)
    except (TypeError, ValueError):
        vectors = np.zeros(0)
    spans_a_volume = vectors.shape == (3, 3) and np.linalg.det(vectors) != 0.0
    _require(spans_a_volume, "box_vecs", box, "three box vectors that span a volume, in angstrom")


def _validate_shells(args: Mapping[str, Any]) -> None:
    head = args["output_model"]
    heads = "Scalar or ElectronicSpatialExtent (features of degree 2 are no vectors)"
    _require(head in ("Scalar", "ElectronicSpatialExtent"), "output_model", head, heads)
    revision = args.get("revision", 1)
    _require(revision in REVISIONS, "revision", revision, f"one of {REVISIONS}")
    cutoff = float(args["cutoff_upper"])
    _require(cutoff > 0, "cutoff_upper", cutoff, "a positive distance in angstrom")
    lower = float(args["cutoff_lower"])
    _require(lower == 0, "cutoff_lower", lower, "0 (the shells start at the atom)")
    attention = args.get("attn_activation", "silu")
    _require(
        attention == "silu", "attn_activation", attention, "silu (the fused attention op knows no other)"
    )
    num_shells = args.get("num_shells")
    if num_shells is not None:
        layers = args["num_layers"]
        valid = isinstance(num_shells, int) and 1 <= num_shells <= layers
        _require(valid, "num_shells", num_shells, f"an integer from 1 to num_layers ({layers})")
    num_shells, overlap = shell_settings(args)
    width = cutoff / num_shells
    _require(
        0 <= overlap <= width + 1e-9,
        "shell_overlap",
        overlap,
        f"a width from 0 to cutoff_upper / num_shells = {width:g} angstrom",
    )


def add_arguments(parser: Any) -> None:
    """Add a flag for every hyper-parameter of ours to an argparse parser."""
    group = parser.add_argument_group("DKMP (dkmp_plugin)")
    for parameter in HYPERPARAMETERS:
        group.add_argument(
            parameter.flag,
            type=parameter.type,
            default=parameter.default,
            choices=parameter.choices,
            help=parameter.help,
        )


def defaults() -> Dict[str, Any]:
    """Default value of every hyper-parameter of ours."""
    return {parameter.name: parameter.default for parameter in HYPERPARAMETERS}
