"""Over-squashing: how much an atom's features feel a distant atom (Proposition 3.1 of the paper)."""

import torch
from torch import Tensor, nn


def feature_jacobian(representation: nn.Module, z: Tensor, pos: Tensor, receiver: int) -> Tensor:
    """Sensitivity |dh_i/dx_s| of one atom's features to the position of every atom.

    In a message-passing network the information of a distant atom passes through one atom per hop and is
    squeezed together with everything else on its way; the norm of the Jacobian bounds what is left of it.

    Args:
        representation: a torchmd-net representation model, (z, pos, batch) -> (x (N, d), ...).
        z: atomic numbers (N,).
        pos: (N, 3) in Å.
        receiver: index i of the atom whose features are differentiated.

    Returns:
        Frobenius norm of the (d, 3) Jacobian for every atom s, (N,), per Å; exactly 0 where no path of
        messages leads from s to i.
    """
    leaf = pos.detach().clone().requires_grad_(True)
    features = representation(z, leaf, torch.zeros_like(z))[0][receiver]
    squares = torch.zeros_like(pos)
    for feature in features:
        (gradient,) = torch.autograd.grad(feature, leaf, retain_graph=True)
        squares += gradient**2
    return squares.sum(dim=1).sqrt()
