"""One training: resumable, with a budget in epochs or in CPU seconds, the same loop for every model."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dkmp_plugin.evaluation.metrics import EnergyForceErrors, energy_force_errors
from dkmp_plugin.files import replaced_on_success
from dkmp_plugin.training.losses import LOSSES_OF_STRUCTURES, norm_loss
from dkmp_plugin.training.muon import MuonWithAdamW
from dkmp_plugin.training.relative_energies import RelativeEnergyLoss
from dkmp_plugin.training.schedules import FALLS
from s2ef.models import build_model
from s2ef.structures import Scaling, Structures, shuffled_batches

_SECONDS_BETWEEN_CHECKPOINTS = 30.0
# How the learning rate was found changes nothing in a training at that rate.
_OF_THE_SEARCH = ("learning_rates", "learning_rate_search_epochs")
# An epoch's mean loss over the lowest one of all epochs before. Losses fluctuate by less than ten; a model
# that has collapsed (it predicts no forces any more) does not come back.
_COLLAPSED = 100.0
# Weight of the latest structure in the running mean of the energies' errors.
_LATEST_ERROR = 0.03


class Diverged(Exception):
    """The loss is no longer a number, or the model has collapsed."""


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        step: Optimiser steps done.
        cpu_seconds: Process CPU seconds spent in optimiser steps, and in taking the energies' mean error out.
        losses: Mean training loss of every epoch (since the last resume, where there was one within it).
        gradient_norm: Running mean of the gradients' length, as it was after clipping.
        energy_error: Running mean of the energies' errors, shape (1,), in units of the scaling; kept for
            batches of one.
        centred: Whether the energies' mean error on the training structures has been taken out.
    """

    step: int = 0
    cpu_seconds: float = 0.0
    losses: List[float] = field(default_factory=list)
    gradient_norm: Optional[float] = None
    energy_error: Optional[Tensor] = None
    centred: bool = False


@dataclass(frozen=True)
class Budget:
    """When a training ends: after so many epochs, or after so many CPU seconds."""

    epochs: Optional[float] = None
    cpu_seconds: Optional[float] = None

    def fraction(self, progress: Progress, steps_per_epoch: int) -> float:
        """The part of the budget that is spent, from 0 to 1."""
        if self.epochs is not None:
            return min(1.0, progress.step / (self.epochs * steps_per_epoch))
        assert self.cpu_seconds is not None
        return min(1.0, progress.cpu_seconds / self.cpu_seconds)


class ShiftedModel(nn.Module):
    """A model whose energies are shifted per atom, so that the untrained model's mean is that of the data.

    Untrained models of different architectures start anywhere within hundreds of units; without the shift
    the first epochs measure who starts where.
    """

    shift: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("shift", torch.zeros(()))

    def start_at(self, structures: Structures, scaling: Scaling) -> None:
        inputs = structures.batch(torch.arange(min(4, len(structures))))
        energies, _ = self.model(*inputs)
        target = scaling.energies(structures.energy[: len(energies)]).mean()
        self.shift = (target - energies.detach().mean()) / len(structures.z)

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor]) -> Any:
        energies, forces = self.model(z, pos, batch, box)
        return energies + self.shift * torch.bincount(batch), forces


class Training:
    """One model on one row, from its checkpoint where there is one.

    Args:
        model_name: Which model.
        settings: Its settings (``Protocol.settings``).
        learning_rate: Peak learning rate.
        structures: ``train``, ``validation``, ``test``.
        batch_size: Structures per step.
        budget: When to end.
        checkpoint: Where the state is kept; None for short trainings.
    """

    def __init__(
        self,
        model_name: str,
        settings: Dict[str, Any],
        learning_rate: float,
        structures: Dict[str, Structures],
        batch_size: int,
        budget: Budget,
        checkpoint: Optional[Path] = None,
    ) -> None:
        self.settings, self.learning_rate = settings, learning_rate
        self.data, self.batch_size, self.budget = structures["train"], batch_size, budget
        self.scaling = Scaling.of(self.data)
        self.checkpoint = checkpoint
        self.progress = Progress()
        torch.manual_seed(settings["seed"])
        self.model = ShiftedModel(build_model(model_name, settings))
        self.model.start_at(self.data, self.scaling)
        average = get_ema_multi_avg_fn(settings["ema_decay"])
        self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.optimizer = self._fresh_optimizer()
        self.relative_energy_loss = RelativeEnergyLoss(self.model)
        self.steps_per_epoch = math.ceil(len(self.data) / batch_size)
        if checkpoint is not None and checkpoint.is_file():
            self._restore()

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        name, weight_decay = self.settings["optimizer"], self.settings["weight_decay"]
        if name == "muon":  # as it was until version 18 of the protocol
            return MuonWithAdamW(self.model, self.learning_rate, weight_decay, momentum=0.95, balanced=False)
        if name == "normuon":
            return MuonWithAdamW(self.model, self.learning_rate, weight_decay)
        if name != "adamw":
            raise ValueError(f"optimizer: {name!r} was given, adamw, muon or normuon is expected")
        return torch.optim.AdamW(
            self.model.parameters(),
            lr=self.learning_rate,
            betas=(0.9, self.settings.get("adam_beta2", 0.999)),
            weight_decay=weight_decay,
            fused=True,
        )

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def epochs(self) -> float:
        return self.progress.step / self.steps_per_epoch

    def run(self) -> None:
        """Trains until the budget is spent."""
        saved = time.monotonic()
        while self._fraction() < 1.0:
            epoch, first = divmod(self.progress.step, self.steps_per_epoch)
            batches = shuffled_batches(len(self.data), self.batch_size, self.settings["seed"], epoch)
            losses = []
            for position, indices in enumerate(batches):
                if position < first:
                    continue
                if self._fraction() >= 1.0:
                    break
                losses.append(self.train_step(indices))
                if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    self.save()
                    saved = time.monotonic()
            self.progress.losses.append(float(np.mean(losses)))
            if self.progress.losses[-1] > _COLLAPSED * min(self.progress.losses):
                raise Diverged(f"the model collapsed in epoch {self.epochs:.0f}; the training is void")
            print(
                f"epoch {self.epochs:.1f}, {self.progress.cpu_seconds:.0f} CPU s, "
                f"loss {self.progress.losses[-1]:.5f}",
                flush=True,
            )
        relative = self.settings.get("energy_loss", "squares").startswith("relative")
        if relative and not self.progress.centred:
            self._centre_energies()
        self.save()

    def _centre_energies(self) -> None:
        """Takes the energies' mean error on the training structures out: relative ones say nothing of it."""
        start = time.process_time()
        energies, _ = self.predict(self.data)
        error = float((energies - self.data.energy).mean()) / self.scaling.unit / len(self.data.z)
        for model in (self.model, self.averaged.module):
            model.shift -= error
        self.progress.centred = True
        self.progress.cpu_seconds += time.process_time() - start

    def predict(self, structures: Structures, batch_size: int = 5) -> Tuple[Tensor, Tensor]:
        """Energies (M,) and forces (M, N, 3) of the averaged weights, float64, in the unit of the labels."""
        self.averaged.eval()
        energies, forces = [], []
        for indices in torch.arange(len(structures)).split(batch_size):
            energy, force = self.averaged(*structures.batch(indices))
            energies.append(energy.detach().double() * self.scaling.unit + self.scaling.reference)
            forces.append(force.detach().double().view(len(indices), -1, 3) * self.scaling.unit)
        self.averaged.train()
        return torch.cat(energies), torch.cat(forces)

    def errors(self, structures: Structures) -> EnergyForceErrors:
        """Errors of the averaged weights, in the unit of the labels."""
        energies, forces = self.predict(structures)
        return energy_force_errors(
            energies.numpy(), forces.numpy(), structures.energy.numpy(), structures.forces.double().numpy()
        )

    def _fraction(self) -> float:
        return self.budget.fraction(self.progress, self.steps_per_epoch)

    def _learning_rate(self) -> float:
        fraction, warmup = self._fraction(), self.settings["warmup"]
        floor = self.settings["learning_rate_floor"]
        fall = FALLS[self.settings.get("learning_rate_fall", "cosine")](fraction)
        # The first step must not have the rate zero.
        return self.learning_rate * (floor + (1.0 - floor) * fall) * min(1.0, (fraction + 1e-3) / warmup)

    def _energy_weight(self) -> float:
        """Rises geometrically, per atom: forces first, energies at the end.

        The energy of a large molecule sums over all its atoms, and so does its gradient: with a large weight
        from the start it drowns the forces.
        """
        first, last = self.settings["energy_weight_per_atom"]
        return first * (last / first) ** self._fraction() / len(self.data.z)

    def train_step(self, indices: Tensor) -> float:
        """One optimiser step on the structures ``indices``; returns the loss."""
        start = time.process_time()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        z, pos, batch, box = self.data.batch(indices)
        energies, forces = self.model(z, pos, batch, box)
        energy_error = energies - self.scaling.energies(self.data.energy[indices])
        targets = self.scaling.forces(self.data.forces[indices].reshape(-1, 3))
        loss = self._energy_weight() * self._energy_loss(energy_error)
        loss = loss + self.settings["force_weight"] * self._force_loss(forces, targets, pos, batch, box)
        if not torch.isfinite(loss):
            raise Diverged(f"the loss is {loss.item()} at step {self.progress.step}; the training is void")
        self.optimizer.zero_grad()
        loss.backward()
        self._clip_gradients()
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.progress.step += 1
        self.progress.cpu_seconds += time.process_time() - start
        return loss.item()

    def _energy_loss(self, error: Tensor) -> Tensor:
        """Mean square of the errors, or with ``energy_loss: relative`` their variance within the batch.

        A batch of one has none: there it is the square of the difference to the running mean of the errors,
        or with ``relative_norm`` :class:`RelativeEnergyLoss`.
        """
        name = self.settings.get("energy_loss", "squares")
        if name == "relative" and len(error) > 1:
            return error.var()
        if name == "relative":
            latest = error.detach()
            usual = latest if self.progress.energy_error is None else self.progress.energy_error
            self.progress.energy_error = usual.lerp(latest, _LATEST_ERROR)
            return (error - usual).square().mean()
        if name == "relative_norm":
            return self.relative_energy_loss(error)
        if name != "squares":
            raise ValueError(
                f"energy_loss: {name!r} was given, squares, relative or relative_norm is expected"
            )
        return error.square().mean()

    def _force_loss(
        self, forces: Tensor, targets: Tensor, pos: Tensor, batch: Tensor, box: Optional[Tensor]
    ) -> Tensor:
        """Mean square of the components' errors, or what ``force_loss`` names."""
        name = self.settings.get("force_loss", "squares")
        if name == "norm":
            return norm_loss(forces, targets)
        if f"{name}_loss" in LOSSES_OF_STRUCTURES:
            return LOSSES_OF_STRUCTURES[f"{name}_loss"](forces, targets, pos, batch, box)
        if name != "squares":
            expected = "squares, norm, neighborhood_norm or elastic_norm"
            raise ValueError(f"force_loss: {name!r} was given, {expected} is expected")
        return (forces - targets).square().mean()

    def _clip_gradients(self) -> None:
        """Cuts gradients to the fixed limit and, with ``gradient_outlier``, a multiple of their usual length.

        Adam divides by a running mean of squared gradients: late in a training, when gradients have become
        small, one gradient of the old size is a step a hundred times too long, and the model collapses.
        """
        limit = self.settings["gradient_clipping"]
        usual, outlier = self.progress.gradient_norm, self.settings.get("gradient_outlier")
        if outlier is not None and usual is not None:
            limit = min(limit, outlier * usual)
        norm = min(float(nn.utils.clip_grad_norm_(self.model.parameters(), limit)), limit)
        self.progress.gradient_norm = norm if usual is None else 0.99 * usual + 0.01 * norm

    def save(self) -> None:
        """Writes the checkpoint, where one was asked for."""
        if self.checkpoint is None:
            return
        state = {
            "learning_rate": self.learning_rate,
            "settings": self.settings,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
            "relative_energy_loss": self.relative_energy_loss.state_dict(),
        }
        with replaced_on_success(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _restore(self) -> None:
        assert self.checkpoint is not None
        state = torch.load(self.checkpoint, weights_only=True)
        same_settings = _of_training(state["settings"]) == _of_training(self.settings)
        if not same_settings or state["learning_rate"] != self.learning_rate:
            raise SystemExit(f"{self.checkpoint} was written with other settings; move it away to train anew")
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        if "relative_energy_loss" in state:
            self.relative_energy_loss.load_state_dict(state["relative_energy_loss"])
        print(f"resumed at step {self.progress.step}, {self.progress.cpu_seconds:.0f} CPU s", flush=True)


def _of_training(settings: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _OF_THE_SEARCH}


def train_to_the_end(
    model_name: str,
    settings: Dict[str, Any],
    learning_rate: float,
    structures: Dict[str, Structures],
    batch_size: int,
    budget: Budget,
    checkpoint: Path,
) -> Training:
    """A finished training: at ``learning_rate``, or anew at half of it after each divergence.

    A file ``CHECKPOINT.RATE.diverged`` remembers a divergence for the next call.
    """
    while True:
        mark = checkpoint.with_suffix(f".{learning_rate:.2g}.diverged")
        if not mark.is_file():
            training = Training(
                model_name, settings, learning_rate, structures, batch_size, budget, checkpoint
            )
            try:
                training.run()
                return training
            except Diverged as error:
                print(error, flush=True)
            checkpoint.unlink(missing_ok=True)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        learning_rate /= 2.0
        print(f"learning rate {learning_rate:.2g}", flush=True)
