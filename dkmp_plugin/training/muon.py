"""Muon for the matrices of a model, AdamW for its other parameters, as one optimiser."""

from typing import Any, Dict, List, Tuple

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

# The last maps of an output head: a handful of directions, which have nothing to be orthogonal to.
_FEWEST_OUTPUTS = 3


def split_parameters(model: nn.Module) -> Tuple[List[nn.Parameter], List[nn.Parameter]]:
    """The weights of a model's linear maps, and all its other trainable parameters.

    Embeddings, biases, factors of norms and the last linear maps, to one or two numbers, are among the
    others, as Muon's authors recommend.

    Args:
        model: Any model.

    Returns:
        Matrices; other parameters.
    """
    matrices = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features >= _FEWEST_OUTPUTS
    }
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return (
        [parameter for parameter in trainable if id(parameter) in matrices],
        [parameter for parameter in trainable if id(parameter) not in matrices],
    )


def square_blocks(matrix: Tensor) -> List[Tensor]:
    """Views of a matrix whose height is a multiple of its width, or the reverse, as square ones.

    Such a matrix maps to, or from, several groups of channels at once (gates, values, projections), each of
    which has directions of its own.
    """
    rows, columns = matrix.shape
    if rows % columns == 0:
        return list(matrix.split(columns))
    if columns % rows == 0:
        return list(matrix.split(rows, dim=1))
    return [matrix]


class _BlockMuon(Muon):
    """torch's Muon, with every square block orthogonalised on its own."""

    def _init_group(
        self,
        group: Any,
        params_with_grad: List[Tensor],
        grads: List[Tensor],
        muon_momentum_bufs: List[Tensor],
    ) -> bool:
        found: Tuple[List[Tensor], List[Tensor], List[Tensor]] = ([], [], [])
        has_complex = super()._init_group(group, *found)
        for blocks, matrices in zip((params_with_grad, grads, muon_momentum_bufs), found, strict=True):
            blocks.extend(block for matrix in matrices for block in square_blocks(matrix))
        return has_complex


class MuonWithAdamW(Optimizer):
    """torch's Muon on the matrices of a model, torch's AdamW on everything else.

    Muon (https://kellerjordan.github.io/posts/muon) moves a matrix by an orthogonal one of the gradient's
    directions, so rare directions move as far as frequent ones. Its steps are scaled to the size of AdamW's
    (``match_rms_adamw``): one learning rate serves both. Matrices of several groups of channels are moved
    group by group (:func:`square_blocks`).

    To schedulers and checkpoints this is one optimiser with two parameter groups.

    Args:
        model: Whose parameters are optimised.
        lr: Learning rate of both.
        weight_decay: Weight decay of both.

    Raises:
        ValueError: If the model has no linear map; AdamW alone is what it needs.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float = 0.0) -> None:
        matrices, others = split_parameters(model)
        if not matrices:
            raise ValueError("optimizer: 'muon' was given, but the model has no linear map; use 'adamw'")
        self._muon = _BlockMuon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._adamw = AdamW(others, lr=lr, weight_decay=weight_decay, fused=True)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Both optimisers work on the groups and the state of this one."""
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adamw.state = self.state

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """One step of both; returns what ``closure`` returns, where one is given."""
        loss = self._muon.step(closure)
        self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """As of any optimiser."""
        super().load_state_dict(state_dict)
        self._share()
