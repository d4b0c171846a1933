"""How frame pairs are drawn from runs: the options that every structure-to-structure dataset shares."""

import math
from dataclasses import dataclass

from dkmp_plugin.datasets.arguments import check_boolean, check_whole_number

REFERENCES = ("none", "first", "mean")


@dataclass(frozen=True)
class Sampling:
    """Options of :class:`dkmp_plugin.datasets.frame_pairs.FramePairs`; keys of ``dataset_arg`` in the YAML.

    All augmentation applies to training items only.

    Attributes:
        lag: Frames between input and target.
        num_neighbors: Columns M of the ranks (at least the model's ``max_num_neighbors``); 0 leaves ranking
            to the model, which then ranks every frame by itself.
        rerank_interval: Ranks come from the latest frame whose number is a multiple of this; 0 for the first
            frame of the run throughout (paper, appendix E). Ranks are kept once computed: with small
            intervals up to 4 M bytes per atom and frame, more than the positions take.
        augment_rotation: Turn items at random: for models without a canonical frame.
        augment_noise: Standard deviation in Å of noise added to inputs; the target frame stays.
        augment_smoothing: Half width w in frames of a running average: every second input is averaged over
            2 w + 1 frames, because frames of a rollout carry no thermal noise; every target is, because its
            noise only hides the mean that is to be learned. 0 for none.
        augment_crossing: Probability that an item is crossed with another training run of the same system
            (see :class:`dkmp_plugin.datasets.crossing.Crossing`). 0 for never.
        reference: ``none``; ``first``: items also hold ``reference`` (N, 3), the first frame of their run;
            ``mean``: the mean structure of the training runs, which must be of one system. For the model's
            ``canonical_frame`` of the same name.
        previous: Items also hold ``previous`` (N, 3), the frame ``lag`` earlier, or their own frame if there
            is none: for the model's ``memory``.
        pushforward: Training items also hold ``previous``: the model without memory
            then learns from its own predictions (see ``DisplacementModel``).

    Raises:
        ValueError: an impossible value.
    """

    lag: int = 1
    num_neighbors: int = 0
    rerank_interval: int = 0
    augment_rotation: bool = False
    augment_noise: float = 0.0
    augment_smoothing: int = 0
    augment_crossing: float = 0.0
    reference: str = "none"
    previous: bool = False
    pushforward: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("lag", 1),
            ("num_neighbors", 0),
            ("rerank_interval", 0),
            ("augment_smoothing", 0),
        ):
            check_whole_number(name, getattr(self, name), least)
        for name, limit in (("augment_noise", math.inf), ("augment_crossing", 1.0)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0.0 <= value <= limit:
                expected = "a length in Å" if limit > 1.0 else "a probability (0 to 1)"
                raise ValueError(f"{name}: {value!r} was given, {expected} is expected")
        for name in ("augment_rotation", "previous", "pushforward"):
            check_boolean(name, getattr(self, name))
        if self.reference not in REFERENCES:
            raise ValueError(
                f"reference: {self.reference!r} was given, one of {', '.join(REFERENCES)} is expected"
            )
        if self.previous and self.pushforward:
            raise ValueError("pushforward: true was given with previous: true; only one of them is possible")

    def check_model(self, canonical_frame: str, memory: bool, adds_box: bool = False) -> None:
        """Refuses a model that asks for something items do not hold, or has no use for what they do.

        Args:
            canonical_frame: The model's; ``mean`` may come with a structure that the model has kept.
            memory: Whether the model has one.
            adds_box: Whether the model takes a constant box (``box_vecs``) for items that have none.

        Raises:
            ValueError: items lack the reference or the frame before, in training or in validation, or hold
                one for a model that does not look at it, or have no box where the model adds one.
        """
        if (canonical_frame, self.reference) in (("first", "none"), ("first", "mean"), ("mean", "first")):
            raise ValueError(
                f"canonical_frame: {canonical_frame!r} needs reference: {canonical_frame} in dataset_arg, "
                f"{self.reference!r} was given; correct one of them"
            )
        if self.reference != "none" and canonical_frame not in REFERENCES[1:]:
            raise ValueError(
                f"reference: {self.reference!r} was given, but a model with canonical_frame: "
                f"{canonical_frame!r} does not look at it; set canonical_frame: {self.reference}, or "
                "remove reference"
            )
        if memory and not self.previous:
            raise ValueError(
                "memory: true needs previous: true in dataset_arg; pushforward, which brings the frame "
                "before to training items only, is for models without memory"
            )
        if self.previous and not memory:
            raise ValueError(
                "previous: true is for models with memory: true, which this one lacks; set memory: true, "
                "remove previous, or set pushforward: true instead to train on the model's own predictions"
            )
        if adds_box:
            raise ValueError(
                "box_vecs was given, but the trajectories are read without a box: ranks of the dataset would "
                "ignore it; remove box_vecs, or set periodic: true in dataset_arg for the boxes of the files"
            )
