"""The steps from a ligand's file to an exported potential; finished ones are kept."""

import json
import shutil
from pathlib import Path
from typing import Any, Dict, Union

from dkmp_plugin.bespoke.settings import BespokeSettings
from dkmp_plugin.bespoke.training import loss_weights, train
from dkmp_plugin.files import only_here, replaced_on_success
from dkmp_plugin.labeling.campaign import remove_runs, run_campaign
from dkmp_plugin.labeling.executors import TaskMap, in_this_process
from dkmp_plugin.training.torchmd_train import training_program


def make_potential(
    settings: BespokeSettings, output: Union[str, Path], task_map: TaskMap = in_this_process
) -> Dict[str, Any]:
    """Sample, label, train, validate and export a potential of one molecule.

    The folder holds ``labels.h5``, ``splits.npz``, ``training.yaml``, ``training/``, ``best.ckpt``,
    ``evaluation.json``, ``model.pt`` and ``report.html``. Called again after an interruption, even by
    kill -9, it keeps what is finished: frames and labels in chunks, the training by epochs.

    Args:
        settings: The ligand and the sizes.
        output: The folder.
        task_map: Where sampling and labelling run (see ``dkmp_plugin.labeling.executors``).

    Returns:
        The evaluation on held-out runs (see ``evaluate_held_out``).

    Raises:
        ValueError: If the input is unreadable, or the folder was begun with other settings.
        RuntimeError: If the training cannot be started or fails, or another process works in the folder.
    """
    output = Path(output).absolute()
    with only_here(output):
        settings.claim(output)
        _label(settings, output, task_map)
        _train(settings, output)
        evaluation = _evaluate(output)
        _export(output)
        _report(settings, output, evaluation)
    return evaluation


def _begin(step: str, output: Path) -> bool:
    """Announces a step; whether it has to be done."""
    done = output.exists()
    print(f"== {step}: " + (f"kept ({output.name})" if done else output.name), flush=True)
    return not done


def _label(settings: BespokeSettings, output: Path, task_map: TaskMap) -> None:
    from dkmp_plugin.datasets.label_file import read_label_file, write_splits

    labels = output / "labels.h5"
    if _begin("sample and label", labels):
        # Not after hours of labelling.
        training_program()
        molecule = settings.read_molecule()
        print(f"{molecule.source}; {len(molecule.atomic_numbers)} atoms, charge {molecule.charge:+d}")
        run_campaign(molecule, settings.plan_runs(), labels, task_map=task_map)
    else:
        remove_runs(labels)
    if not (output / "splits.npz").exists():
        write_splits(output / "splits.npz", read_label_file(labels))


def _train(settings: BespokeSettings, output: Path) -> None:
    from dkmp_plugin.datasets.label_file import read_label_file

    finished = output / "training_finished"
    if _begin("train", finished):
        train(
            output,
            num_epochs=settings.epochs,
            embedding_dimension=settings.width,
            seed=settings.seed,
            **loss_weights(len(read_label_file(output / "labels.h5").atomic_numbers)),
        )
        finished.touch()


def _evaluate(output: Path) -> Dict[str, Any]:
    path = output / "evaluation.json"
    if _begin("validate on held-out runs", path):
        from dkmp_plugin.evaluation.held_out import evaluate_held_out
        from dkmp_plugin.training.log_dir import best_checkpoint

        checkpoint = best_checkpoint(output / "training")
        with replaced_on_success(output / "best.ckpt") as temporary:
            shutil.copyfile(checkpoint, temporary)
        evaluation = evaluate_held_out(output / "best.ckpt", output / "labels.h5")
        evaluation["checkpoint"] = checkpoint.name
        with replaced_on_success(path) as temporary:
            temporary.write_text(json.dumps(evaluation, indent=1))
    return json.loads(path.read_text())


def _export(output: Path) -> None:
    if _begin("export", output / "model.pt"):
        from dkmp_plugin.simulation.export import export_model

        export_model(output / "best.ckpt", output / "model.pt")


def _report(settings: BespokeSettings, output: Path, evaluation: Dict[str, Any]) -> None:
    if _begin("report", output / "report.html"):
        from dkmp_plugin.bespoke.page import write_page

        write_page(settings, output, evaluation)
