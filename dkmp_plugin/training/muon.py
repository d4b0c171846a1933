"""Muon for the matrices of a model, AdamW for its other parameters, as one optimiser."""

from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

# The last maps of an output head: a handful of directions, which have nothing to be orthogonal to.
_FEWEST_OUTPUTS = 3
# Of the running means of gradients and of rows' squares. Losses of lengths have gradients that do not shrink
# with the errors, so the mean of gradients is a long one: 0.95 leaves a tenth more error on chignolin, 0.99
# is too slow for ten epochs.
_MOMENTUM = 0.98
_ROW_MEMORY = 0.95


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


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices with the singular vectors of the given ones, by Newton-Schulz iterations.

    The iteration, its coefficients and its precision are those of ``torch.optim.Muon``: singular values end
    between 0.7 and 1.2, which serves an optimiser as well as one. All matrices of a batch go together,
    because for the small ones of these models a call takes ten times as long as its arithmetic.

    Args:
        matrices: Shape (batch, rows, columns).

    Returns:
        The same shape, bfloat16.
    """
    tall = matrices.size(1) > matrices.size(2)
    result = matrices.bfloat16()
    if tall:
        result = result.mT
    result = result / result.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = torch.bmm(result, result.mT)
        result = torch.baddbmm(
            result, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), result, beta=3.4445
        )
    return result.mT if tall else result


class BlockMuon(Optimizer):
    """Muon on square blocks of matrices, all blocks of one shape at once.

    A matrix moves by an orthogonal one of its gradient's directions (Muon,
    https://kellerjordan.github.io/posts/muon), so rare directions move as far as frequent ones. ``balanced``
    rows of a block move equally far too, on average over the last steps (NorMuon, arXiv:2510.05491).

    Unbalanced, this is ``torch.optim.Muon`` with Nesterov momentum and ``match_rms_adamw`` where matrices
    are square; that one goes matrix by matrix, in a model of 48 channels and four layers 20 ms a step where
    this takes 6.

    Args:
        matrices: Parameters of two dimensions.
        lr: Learning rate, of steps as long as AdamW's.
        weight_decay: Decoupled weight decay.
        momentum: Of the gradients: steps follow their running mean over 1 / (1 - momentum) steps.
        balanced: Whether rows are balanced.
    """

    def __init__(
        self,
        matrices: List[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = _MOMENTUM,
        balanced: bool = True,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "balanced": balanced}
        super().__init__(matrices, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """One step; returns what ``closure`` returns, where one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._move(group)
        return loss

    def _move(self, group: Dict[str, Any]) -> None:
        blocks: Dict[torch.Size, List[Tensor]] = {}
        updates: Dict[torch.Size, List[Tensor]] = {}
        squares: Dict[torch.Size, List[Tensor]] = {}
        balanced = group.get("balanced", False)  # checkpoints from before rows were balanced do not have it
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            of_matrix, state = square_blocks(matrix), self.state[matrix]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
                if balanced:
                    state["row_squares"] = matrix.new_zeros(len(of_matrix), len(of_matrix[0]), 1)
            mean = state["momentum_buffer"].lerp_(matrix.grad, 1.0 - group["momentum"])
            matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
            update = matrix.grad.lerp(mean, group["momentum"])
            shape = of_matrix[0].shape
            blocks.setdefault(shape, []).extend(of_matrix)
            updates.setdefault(shape, []).extend(square_blocks(update))
            if balanced:
                squares.setdefault(shape, []).extend(state["row_squares"])
        for shape, of_shape in blocks.items():
            steps = orthogonalize(torch.stack(updates[shape])).to(of_shape[0].dtype)
            if balanced:
                steps = _balanced(steps, squares[shape])
            # An orthogonal matrix has elements of 1 / sqrt(its longer side); AdamW's usual steps are 0.2 lr.
            torch._foreach_add_(of_shape, list(steps), alpha=-0.2 * group["lr"] * max(shape) ** 0.5)


def _balanced(steps: Tensor, squares: List[Tensor]) -> Tensor:
    """Steps (batch, rows, columns) as long as before, their rows over the roots of running mean squares.

    ``squares`` are those means, one tensor (rows, 1) a step, and are brought up to date. They start at zero,
    which shortens all rows of a step alike and so has no effect.
    """
    means = torch.stack(squares).lerp_(steps.square().mean(2, keepdim=True), 1.0 - _ROW_MEMORY)
    torch._foreach_copy_(squares, list(means))
    tiny = torch.finfo(steps.dtype).tiny  # rows without a gradient stay where they are
    balanced = steps / means.sqrt().clamp(min=tiny)
    lengths = balanced.norm(dim=(1, 2), keepdim=True).clamp(min=tiny)
    return balanced * (steps.norm(dim=(1, 2), keepdim=True) / lengths)


class MuonWithAdamW(Optimizer):
    """:class:`BlockMuon` on the matrices of a model, torch's AdamW on everything else, at one learning rate.

    To schedulers and checkpoints this is one optimiser with two parameter groups.

    Args:
        model: Whose parameters are optimised.
        lr: Learning rate of both.
        weight_decay: Weight decay of both.
        momentum: Of :class:`BlockMuon`.
        balanced: The same.

    Raises:
        ValueError: If the model has no linear map; AdamW alone is what it needs.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = _MOMENTUM,
        balanced: bool = True,
    ) -> None:
        matrices, others = split_parameters(model)
        if not matrices:
            raise ValueError("optimizer: 'muon' was given, but the model has no linear map; use 'adamw'")
        self._muon = BlockMuon(matrices, lr, weight_decay, momentum, balanced)
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
