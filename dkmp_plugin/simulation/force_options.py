"""Choices about how a force is computed that do not change it: fixed shapes, a skin, CUDA graphs."""

from dataclasses import dataclass
from numbers import Real
from typing import Any, Optional

# Two edges per pair and direction: 40,000 for this many atoms.
MAX_STATIC_ATOMS = 100


@dataclass(frozen=True)
class ForceOptions:
    """How the force of a model is computed.

    Attributes:
        static_shapes: Whether all tensors have fixed shapes, as CUDA graphs need; None for molecules of up
            to ``MAX_STATIC_ATOMS`` atoms that do not meet their periodic images and have no skin, and of
            models without a box of their own (``box_vecs``).
        skin: Neighbours are searched up to this many Å beyond the cutoff and used again until an atom has
            moved by half of it, seen from the first; 0 searches at every step.
        cuda_graphs: Whether the model becomes a CUDA graph on GPUs, captured by openmm-torch or by
            ``python_force``.

    Raises:
        ValueError: If a choice is impossible, or they exclude each other.
    """

    static_shapes: Optional[bool] = None
    skin: float = 0.0
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.skin, bool) or not isinstance(self.skin, Real):
            raise ValueError(f"skin: {self.skin!r} was given, a number, of Å, is expected")
        if not 0.0 <= self.skin < float("inf"):
            raise ValueError(f"skin: {self.skin} was given, a length of at least 0 Å is expected")
        # The text "false", as of openmm-torch's property, would count as true.
        if not (self.static_shapes is None or isinstance(self.static_shapes, bool)):
            raise ValueError(
                f"staticShapes: {self.static_shapes!r} was given, True, False or None is expected"
            )
        if not isinstance(self.cuda_graphs, bool):
            raise ValueError(f"useCUDAGraphs: {self.cuda_graphs!r} was given, True or False is expected")
        if self.skin > 0.0 and (self.static_shapes or self.cuda_graphs):
            given = "staticShapes" if self.static_shapes else "useCUDAGraphs"
            raise ValueError(
                f"skin: {self.skin} was given with {given}=True, one of the two is expected: with a skin the "
                "positions decide whether neighbours are searched, and how many edges there are"
            )
        if self.cuda_graphs and self.static_shapes is False:
            raise ValueError(
                "useCUDAGraphs: True was given with staticShapes=False, but a CUDA graph has fixed shapes; "
                "leave staticShapes out"
            )

    def prepare(self, model: Any, info: Any, num_atoms: int, is_crystal: bool, file_name: str) -> Any:
        """The model as these options want it.

        Args:
            model: Exported model; may be changed in place.
            info: Its description.
            num_atoms: Number of modelled atoms.
            is_crystal: Whether the modelled atoms meet their own periodic images.
            file_name: The model's, for messages.

        Returns:
            A module with the exported model's ``forward``.

        Raises:
            ValueError: If the model or the system does not allow it.
        """
        if self.skin > 0.0:
            from dkmp_plugin.simulation.neighbor_reuse import ReusingModel

            return ReusingModel(model, info, self.skin)
        self._fix_shapes(model, num_atoms, is_crystal, file_name)
        return model

    def _fix_shapes(self, model: Any, num_atoms: int, is_crystal: bool, file_name: str) -> None:
        from dkmp_plugin.simulation.force_module import fix_shapes
        from dkmp_plugin.simulation.model_file import constant_box

        required = self.static_shapes or self.cuda_graphs
        name = "useCUDAGraphs" if self.cuda_graphs else "staticShapes"
        if not required and (self.static_shapes is False or num_atoms > MAX_STATIC_ATOMS):
            return
        if is_crystal:
            if required:
                raise ValueError(
                    f"{name}: True was given for a periodic system that is modelled as a whole, a molecule "
                    "is expected: a crystal has no fixed largest number of edges; leave it out"
                )
            return
        if constant_box(model) is not None:
            if required:
                raise ValueError(
                    f"{name}: True was given, but {file_name} was trained with box_vecs, a constant box: a "
                    "molecule that meets its periodic images has no fixed largest number of edges; leave it "
                    "out"
                )
            return
        if not fix_shapes(model, num_atoms) and required:
            raise ValueError(
                f"{name}: True was given, but {file_name} was exported by an older dkmp_plugin; export its "
                "checkpoint again"
            )
