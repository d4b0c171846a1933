"""Extends the modules of torchmd-net 3.x so that the stock ``torchmd-train`` knows the DKMP models.

Each function is called by the import hook (``dkmp_plugin._autoload``) with one freshly executed
torchmd-net module. A name that torchmd-net has moved raises at once (AttributeError), which the hook
reports on stderr.
"""

import argparse
import functools
import re
import warnings
from typing import Any, Dict, Optional

from dkmp_plugin.config import DKMP_MODELS, add_arguments, defaults, ignored_keys, validate_training
from dkmp_plugin.training.dataset_arguments import parsed_arguments
from dkmp_plugin.training.dataset_checks import check_dataset_fits
from dkmp_plugin.training.dataset_splits import use_split_of_dataset
from dkmp_plugin.training.schedules import FALLS, falling_schedule, plateau_schedule
from dkmp_plugin.training.split_file import check_split_file, refuse_partial_split

# Attribute of torchmd-net's module, and key of its checkpoints: the loss that remembers the energies before.
_SINGLE_ENERGIES = "dkmp_plugin_single_energies"


def _is_dkmp(args: Any) -> bool:
    model = args["model"] if isinstance(args, dict) else getattr(args, "model", None)
    return model in DKMP_MODELS


def extend_models(module: Any) -> None:
    """torchmdnet.models: the architecture names (choices of ``--model``)."""
    module.__all_models__.extend(name for name in DKMP_MODELS if name not in module.__all_models__)


def extend_output_modules(module: Any) -> None:
    """torchmdnet.models.output_modules: the structure-to-structure head."""
    from dkmp_plugin.training.displacement import Displacement

    module.Displacement = module.EquivariantDisplacement = Displacement
    if "Displacement" not in module.__all__:
        module.__all__.append("Displacement")


def extend_datasets(module: Any) -> None:
    """torchmdnet.datasets: our datasets by name (choices of ``--dataset``)."""
    from dkmp_plugin.datasets import REGISTRY

    for name, dataset in REGISTRY.items():
        setattr(module, name, dataset)
        if name not in module.__all__:
            module.__all__.append(name)


def extend_model_factory(module: Any) -> None:
    """torchmdnet.models.model: ``create_model`` builds the DKMP architectures too."""
    create_torchmdnet_model = module.create_model

    @functools.wraps(create_torchmdnet_model)
    def create_model(args, prior_model=None, mean=None, std=None):
        if args["model"] not in DKMP_MODELS:
            return create_torchmdnet_model(args, prior_model, mean, std)
        from dkmp_plugin.training.factory import create_dkmp_model

        return create_dkmp_model(args, prior_model, mean, std)

    module.create_model = create_model


def extend_losses(module: Any) -> None:
    """torchmdnet.loss: our losses by name (choices of ``--train-loss``)."""
    from dkmp_plugin.training.losses import LOSSES

    # All but norm_loss need to know where the atoms are: extend_lightning_module.
    module.loss_class_mapping.update(LOSSES)


def extend_lightning_module(module: Any) -> None:
    """torchmdnet.module: losses, optimiser and schedule; checkpoints record what the energies mean."""
    import torchmdnet.models.model as model_factory

    from dkmp_plugin.training.continuation import (
        refuse_other_displacements,
        refuse_other_energies,
        refuse_other_optimization,
    )
    from dkmp_plugin.training.losses import LOSSES_OF_STRUCTURES, loss_of_structures

    # Bound by from-import: stale if torchmdnet.module was imported before the hook was in place.
    module.create_model = model_factory.create_model
    module.load_model = model_factory.load_model

    def on_save_checkpoint(self, checkpoint):
        from dkmp_plugin import __version__

        if _is_dkmp(self.hparams):
            checkpoint["dkmp_plugin"] = {"version": __version__, "dataset": _metadata(self.trainer)}
        if _SINGLE_ENERGIES in vars(self):
            checkpoint[_SINGLE_ENERGIES] = _single_energy_loss(self).state_dict()

    module.LNNP.on_save_checkpoint = on_save_checkpoint

    def on_load_checkpoint(self, checkpoint):
        # Without a trainer only the weights are taken over.
        if self._trainer is not None and _SINGLE_ENERGIES in checkpoint:
            _single_energy_loss(self).load_state_dict(checkpoint[_SINGLE_ENERGIES])
        if _is_dkmp(self.hparams) and self._trainer is not None:
            refuse_other_optimization(self.hparams, checkpoint["hyper_parameters"])
            refuse_other_energies(_metadata(self.trainer), self.hparams, checkpoint)
            refuse_other_displacements(_metadata(self.trainer), checkpoint)

    module.LNNP.on_load_checkpoint = on_load_checkpoint

    def on_train_batch_end(self, *_):
        if _is_dkmp(self.hparams) and self.trainer.world_size > 1:
            _share_trained_elements(self.model.representation_model.trained_elements)

    module.LNNP.on_train_batch_end = on_train_batch_end
    compute_torchmdnet_losses = module.LNNP._compute_losses

    @functools.wraps(compute_torchmdnet_losses)
    def _compute_losses(self, y, neg_y, batch, loss_fn, loss_name, stage):
        if loss_name in LOSSES_OF_STRUCTURES:
            box = batch.box if "box" in batch else _constant_box(self.hparams, batch.pos)
            counts = stage == "train" and self.hparams.y_weight > 0
            single = _single_energy_loss(self) if counts else None
            loss_fn = loss_of_structures(loss_name, batch.pos, batch.batch, box, single)
        return compute_torchmdnet_losses(self, y, neg_y, batch, loss_fn, loss_name, stage)

    module.LNNP._compute_losses = _compute_losses
    configure_torchmdnet_optimizers = module.LNNP.configure_optimizers

    @functools.wraps(configure_torchmdnet_optimizers)
    def configure_optimizers(self):
        optimizers, schedulers = configure_torchmdnet_optimizers(self)
        if not _is_dkmp(self.hparams):
            return optimizers, schedulers
        if self.hparams.get("optimizer") == "muon":
            from dkmp_plugin.training.muon import MuonWithAdamW

            optimizers = [MuonWithAdamW(self.model, self.hparams.lr, self.hparams.weight_decay)]
            schedulers[0]["scheduler"] = plateau_schedule(optimizers[0], self.hparams)
        if self.hparams.get("lr_schedule") in FALLS:
            schedulers = [
                falling_schedule(optimizers[0], self.hparams, self.trainer.estimated_stepping_batches)
            ]
        return optimizers, schedulers

    module.LNNP.configure_optimizers = configure_optimizers


def _single_energy_loss(lightning_module: Any) -> Any:
    """The loss of energies in batches of one, which remembers errors and gradients: one for a training."""
    from dkmp_plugin.training.losses import MEAN_ERROR_WEIGHT
    from dkmp_plugin.training.relative_energies import RelativeEnergyLoss

    if _SINGLE_ENERGIES not in vars(lightning_module):
        loss = RelativeEnergyLoss(lightning_module.model, MEAN_ERROR_WEIGHT)
        setattr(lightning_module, _SINGLE_ENERGIES, loss)
    return getattr(lightning_module, _SINGLE_ENERGIES)


def _metadata(trainer: Any) -> Dict[str, Any]:
    """What the dataset of a training declares about itself."""
    data = getattr(trainer, "datamodule", None)
    return dict(getattr(getattr(data, "dataset", None), "metadata", None) or {})


def _share_trained_elements(trained_elements: Any) -> None:
    """Mark in every process what any of them has seen; before a step all take over those of the first."""
    import torch

    seen = trained_elements.to(torch.uint8)
    torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
    trained_elements.copy_(seen)


def _constant_box(hyper_parameters: Any, pos: Any) -> Any:
    """The box (3, 3) in Å that models use where the data brings none, or None."""
    vectors = hyper_parameters.get("box_vecs")
    return None if vectors is None else pos.new_tensor(vectors)


def extend_data_module(module: Any) -> None:
    """torchmdnet.data: the dataset's own split counts; what it declares must agree with the configuration."""
    from dkmp_plugin.training.continuation import warn_of_other_energy_unit

    setup_torchmdnet = module.DataModule.setup

    @functools.wraps(setup_torchmdnet)
    def setup(self, stage):
        is_first = self.dataset is None
        result = setup_torchmdnet(self, stage)
        if _is_dkmp(dict(self.hparams)) or hasattr(self.dataset, "split_indices"):
            check_split_file(self)
        refuse_partial_split(self)
        use_split_of_dataset(self)
        # What training subtracts must not know the held-out energies.
        if hasattr(self.dataset, "fit_reference_energies"):
            self.dataset.fit_reference_energies(self.idx_train)
        if self.hparams["standardize"] and hasattr(self.dataset, "split_indices"):
            # torchmd-net did so before: over its own split, and with other reference energies.
            self._standardize()
        if self.hparams["model"] == "dkmp-r" and hasattr(self.dataset, "sampling"):
            adds_box = self.hparams.get("box_vecs") is not None and not self.dataset.metadata.get("periodic")
            self.dataset.sampling.check_model(
                self.hparams.get("canonical_frame", "principal"), self.hparams.get("memory", False), adds_box
            )
        if _is_dkmp(dict(self.hparams)):
            # The module logs the same hyper-parameters. After a resume its best checkpoint may carry those of
            # the earlier run, and Lightning refuses to log two versions: the final test would not start.
            self._log_hyperparams = False
            metadata = getattr(self.dataset, "metadata", None) or {}
            check_dataset_fits(metadata, self.hparams)
            if is_first:
                warn_of_other_energy_unit(metadata, self.hparams)
        return result

    module.DataModule.setup = setup


def extend_configuration_files(module: Any) -> None:
    """torchmdnet.utils: YAML files and checkpoints may carry our keys, with or without our flags."""
    for action in (module.LoadFromFile, module.LoadFromCheckpoint):
        action.__call__ = _accept_our_keys(action.__call__)
    module.LoadFromCheckpoint.__call__ = _know_old_checkpoints(module.LoadFromCheckpoint.__call__)


def _accept_our_keys(load_torchmdnet: Any) -> Any:
    @functools.wraps(load_torchmdnet)
    def load(self, parser, namespace, values, option_string=None):
        for name, default in defaults().items():
            if name not in namespace:
                setattr(namespace, name, default)
        load_torchmdnet(self, parser, namespace, values, option_string)
        if isinstance(getattr(namespace, "dataset_arg", None), str):
            namespace.dataset_arg = parsed_arguments(namespace.dataset_arg)
        if _is_dkmp(namespace):
            _read_numbers(parser, namespace)

    return load


def _know_old_checkpoints(load_checkpoint: Any) -> Any:
    """Hyper-parameters of a checkpoint that lack the revision are those of the first."""

    @functools.wraps(load_checkpoint)
    def load(self, parser, namespace, values, option_string=None):
        given = getattr(namespace, "revision", defaults()["revision"])
        namespace.revision = None
        load_checkpoint(self, parser, namespace, values, option_string)
        if namespace.revision is None:
            # torchmd-net names the checkpoint only if it has found the hyper-parameters beside it.
            is_old = namespace.load_model == values and _is_dkmp(namespace)
            namespace.revision = 1 if is_old else given

    return load


def _read_numbers(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> None:
    """YAML 1.1 reads ``1e-3`` (no dot) as a string: give such values the type of their flag."""
    for action in parser._actions:
        value = getattr(namespace, action.dest, None)
        if action.type in (int, float) and isinstance(value, str):
            try:
                setattr(namespace, action.dest, action.type(value))
            except ValueError as error:
                raise ValueError(
                    f"{action.dest}: {value!r} was given, a number is expected; correct the configuration"
                ) from error


def extend_command_line(module: Any) -> None:
    """torchmdnet.scripts.train: our hyper-parameters as flags, listed by ``--help``; monitors that exist."""
    get_torchmdnet_argparse = module.get_argparse
    get_torchmdnet_args = module.get_args

    @functools.wraps(get_torchmdnet_argparse)
    def get_argparse():
        parser = get_torchmdnet_argparse()
        add_arguments(parser)
        for action in parser._actions:
            if action.dest == "dataset_arg":
                action.type = _dataset_arguments
        return parser

    @functools.wraps(get_torchmdnet_args)
    def get_args():
        args = get_torchmdnet_args()
        from dkmp_plugin.training.losses import LOSSES

        if _is_dkmp(args) or args.train_loss in LOSSES:
            _monitor_training_loss(args)
        ignored = ignored_keys(vars(args))
        if ignored:
            warnings.warn(f"{args.model} has no use for {', '.join(ignored)}: ignored", stacklevel=2)
        if _is_dkmp(args):
            validate_training(vars(args))
        return args

    module.get_argparse = get_argparse
    module.get_args = get_args


def _dataset_arguments(text: str) -> Optional[Dict[str, Any]]:
    try:
        return parsed_arguments(text)
    except ValueError as error:
        # argparse hides the words of a ValueError.
        raise argparse.ArgumentTypeError(str(error)) from error


def _monitor_training_loss(args: argparse.Namespace) -> None:
    """Watch the training loss where another, torchmd-net's default or a loaded checkpoint's, is not computed.

    torchmd-net validates with the training loss and the mean absolute error alone, whatever its monitors are.
    """
    for monitor in ("early_stopping_monitor", "checkpoint_monitor"):
        name = getattr(args, monitor)
        if name is not None:
            watched = re.sub(r"^(train|val)_total_(?!l1_loss$).*", rf"\1_total_{args.train_loss}", name)
            setattr(args, monitor, watched)
