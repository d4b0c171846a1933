"""Radial filters of one shell: a radial basis, a linear map, stored as B-splines.

The filters of DKMP^C depend on the distance alone, so each is kept as a uniform B-spline over its shell's
interval. The coefficients are a linear image of the radial basis chosen by ``rbf_type``: the spline *is* the
model's filter, in training and in simulation alike, and costs six multiply-adds per channel and edge instead
of ``num_rbf``. It is of degree 5, so four times continuously differentiable. Up to revision 5 it was of
degree 3: its third derivative jumps at the knots, which every bond to a hydrogen passes several times in a
period, and that was a large part of what kept the energy from being conserved.
"""

import math

import torch
from torch import Tensor, nn

from dkmp_plugin.models.layer_settings import LayerSettings
from dkmp_plugin.models.radius_shell import RadiusShell
from dkmp_plugin.ops.reference.message import spline_weights

# In Å. Filters cannot vary faster than this, whatever the radial basis.
_KNOT_SPACING = 0.1
_SAMPLES_PER_INTERVAL = 4


def bspline_basis(distance: Tensor, lower: float, upper: float, num_coefficients: int, degree: int) -> Tensor:
    """Uniform B-spline basis functions on [lower, upper].

    Args:
        distance: Distances in Å, shape (E,).
        lower: Start of the interval in Å.
        upper: End of the interval in Å.
        num_coefficients: Number of basis functions n, on n - degree equal intervals.
        degree: Of the polynomials.

    Returns:
        Dense basis matrix, shape (E, num_coefficients); degree + 1 non-zero entries per row.
    """
    x = (distance - lower) * ((num_coefficients - degree) / (upper - lower))
    cell = torch.clamp(torch.floor(x), 0.0, float(num_coefficients - degree - 1))
    columns = cell.long().unsqueeze(1) + torch.arange(degree + 1, device=distance.device)
    basis = torch.zeros(distance.shape[0], num_coefficients, dtype=distance.dtype, device=distance.device)
    return basis.scatter(1, columns, spline_weights(x - cell, degree))


class RadialBasis(nn.Module):
    """``num_rbf`` functions of the distance, spread over one shell's interval.

    ``expnorm``: exponential-normal functions (PhysNet, doi:10.1021/acs.jctc.9b00181), equally spaced in
    exp(-5 r / cutoff), so they widen outwards. ``gauss``: equally spaced Gaussians. No cutoff is applied
    here: the shell's window does that.

    Args:
        rbf_type: ``expnorm`` or ``gauss``.
        num_rbf: Number of functions.
        lower: Start of the interval in Å.
        upper: End of the interval in Å.
        cutoff: Outer cutoff of the whole model in Å.
        trainable: Whether centres and widths are parameters.
        dtype: Floating-point type.

    Raises:
        ValueError: If ``rbf_type`` is unknown.
    """

    def __init__(
        self,
        rbf_type: str,
        num_rbf: int,
        lower: float,
        upper: float,
        cutoff: float,
        trainable: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        if rbf_type not in ("expnorm", "gauss"):
            raise ValueError(f"rbf_type: {rbf_type!r} was given, 'expnorm' or 'gauss' is expected")
        self.lower = lower
        if rbf_type == "expnorm":
            self.decay = 5.0 / cutoff
            last = math.exp(-self.decay * (upper - lower))
            centres = torch.linspace(last, 1.0, num_rbf, dtype=dtype)
            width = 2.0 / num_rbf * (1.0 - last)
        else:
            self.decay = 0.0
            centres = torch.linspace(0.0, upper - lower, num_rbf, dtype=dtype)
            width = math.sqrt(2.0) * (upper - lower) / max(num_rbf - 1, 1)
        widths = torch.full((num_rbf,), width, dtype=dtype)
        self.centres = nn.Parameter(centres, requires_grad=trainable)
        self.widths = nn.Parameter(widths, requires_grad=trainable)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate the basis.

        Args:
            distance: Distances in Å, shape (E,).

        Returns:
            Shape (E, num_rbf).
        """
        x = distance - self.lower
        if self.decay > 0.0:
            x = torch.exp(-self.decay * x)
        return torch.exp(-(((x.unsqueeze(1) - self.centres) / self.widths) ** 2))


class RadialFilters(nn.Module):
    """B-spline coefficients of all radial filters of one layer, from a radial basis.

    Args:
        num_filters: Number of filters F.
        rbf_type: ``expnorm`` or ``gauss``.
        num_rbf: Number of radial basis functions.
        lower: Start of the shell's interval in Å (its window included).
        upper: End of the shell's interval in Å.
        cutoff: Outer cutoff of the whole model in Å.
        trainable_rbf: Whether the radial basis has parameters.
        amplified: Whether the weights stand in front of a constant factor, the one that would give Xavier's
            weights filters with a variance of one over the shell's volume (without it: about 1/50, and an
            optimiser of fixed step length, Adam, changes them slowly). The weights start smaller by the same
            factor: where training shows no distance, between bonded and non-bonded neighbours, a filter
            stays near zero instead of at large random values.
        degree: Of the B-splines, 3 or 5.
        dtype: Floating-point type.
    """

    samples: Tensor
    projection: Tensor

    def __init__(
        self,
        num_filters: int,
        rbf_type: str,
        num_rbf: int,
        lower: float,
        upper: float,
        cutoff: float,
        trainable_rbf: bool,
        amplified: bool,
        degree: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        num_intervals = math.ceil((upper - lower) / _KNOT_SPACING - 1e-9)
        num_coefficients = num_intervals + degree
        samples = torch.linspace(lower, upper, _SAMPLES_PER_INTERVAL * num_intervals + 1, dtype=torch.float64)
        projection = torch.linalg.pinv(bspline_basis(samples, lower, upper, num_coefficients, degree))
        # Constants of the architecture, rebuilt with it: not part of the checkpoint.
        self.register_buffer("samples", samples.to(dtype), persistent=False)
        self.register_buffer("projection", projection.to(dtype), persistent=False)
        self.basis = RadialBasis(rbf_type, num_rbf, lower, upper, cutoff, trainable_rbf, dtype)
        self.linear = nn.Linear(num_rbf, num_filters, dtype=dtype)
        self.gain = self._unit_gain() if amplified else 1.0
        self.reset_parameters()

    def _unit_gain(self) -> float:
        """One over the standard deviation of a filter with Xavier's weights, over the volume of its shell."""
        with torch.no_grad():
            power = self.basis(self.samples).square().sum(1).double()
        volume = self.samples.double().square()
        xavier_variance = 2.0 / (self.linear.in_features + self.linear.out_features)
        return float((volume.sum() / (xavier_variance * (power * volume).sum())).sqrt())

    def reset_parameters(self) -> None:
        """Filters of Xavier-uniform weights, biases at zero."""
        nn.init.xavier_uniform_(self.linear.weight, gain=1.0 / self.gain)
        nn.init.zeros_(self.linear.bias)

    def forward(self) -> Tensor:
        """Coefficients of every filter.

        Returns:
            Shape (n, F): the table that ``dkmp_plugin.ops.dilated_message`` takes.
        """
        return self.gain * self.linear(self.projection @ self.basis(self.samples))


def shell_filters(
    num_filters: int, settings: LayerSettings, shell: RadiusShell, amplified: bool
) -> RadialFilters:
    """The radial filters of a layer on its shell.

    Args:
        num_filters: Number of filters.
        settings: What the layers of the model share.
        shell: The shell.
        amplified: Of :class:`RadialFilters`.
    """
    return RadialFilters(
        num_filters,
        settings.rbf_type,
        settings.num_rbf,
        shell.start,
        shell.end,
        shell.cutoff,
        settings.trainable_rbf,
        amplified,
        shell.spline_degree,
        settings.dtype,
    )
