"""The comparison as a table: one line per result file, published figures below, Markdown or CSV."""

import csv
import json
from pathlib import Path
from typing import Any, Dict, List

import yaml

from dkmp_plugin.files import replaced_on_success
from s2ef.models import DKMP_C_SIZES
from s2ef.protocol import BUDGETS, Protocol

PUBLISHED_FILE = Path(__file__).with_name("published.yaml")
# eV rows are printed in meV, as the field does.
_PRINTED_UNITS = {"eV": ("meV", 1e3)}
_ERRORS = ("energy_mae", "energy_rmse", "force_mae", "force_rmse")


def load_results(folder: Path, protocol: Protocol) -> List[Dict[str, Any]]:
    """Finished trainings that hold in this version of the protocol, in the protocol's order."""
    results = []
    for row in protocol.rows.values():
        for budget in BUDGETS:
            for model in row.models:
                path = folder / f"{row.name}__{model}__{budget}.json"
                if path.is_file():
                    result = json.loads(path.read_text())
                    if result["protocol"] >= protocol.valid_since[model]:
                        results.append(result)
    return results


def table_lines(results: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """One flat line per result, with the numbers as they are printed."""
    lines = []
    for result in results:
        unit, factor = _PRINTED_UNITS.get(result["energy_unit"], (result["energy_unit"], 1.0))
        line: Dict[str, Any] = {
            "data": result["row"],
            "labels": result["labels"],
            "unit": unit,
            "equal": {"epochs": "epochs", "cpu": "CPU time"}[result["budget"]],
            "model": result["model"],
            "protocol": result["protocol"],
        }
        for name in _ERRORS:
            line[name] = round(factor * result["test"][name], 3)
        line["epochs"] = round(result["epochs"], 1)
        line["training_cpu_s"] = round(result["cpu_seconds"])
        line["cpu_s_per_epoch"] = round(result["cpu_seconds_per_epoch"], 1)
        line["inference_cpu_ms"] = round(result["inference_cpu_ms"], 1)
        line["training_memory_mib"] = round(result["training_memory_mib"])
        line["parameters"] = result["parameters"]
        lines.append(line)
    return lines


def margins(results: List[Dict[str, Any]]) -> List[str]:
    """How far each size of dkmp-c is below the best peer, per row and budget: in force MAE and energy MAE."""
    texts = []
    groups = dict.fromkeys((result["row"], result["budget"]) for result in results)
    for row, budget in groups:
        errors = {r["model"]: r["test"] for r in results if (r["row"], r["budget"]) == (row, budget)}
        peers = {model: values for model, values in errors.items() if model not in DKMP_C_SIZES}
        for size in DKMP_C_SIZES:
            if size not in errors or not peers:
                continue
            parts = []
            for name in ("force_mae", "energy_mae"):
                best = min(peers, key=lambda model, name=name: peers[model][name])  # type: ignore[misc]
                change = 100 * (errors[size][name] / peers[best][name] - 1)
                parts.append(f"{name.replace('_mae', ' MAE')} {change:+.0f} % against {best}")
            texts.append(
                f"{row}, equal {budget}: {size} {', '.join(parts)}; peers finished: {', '.join(peers)}"
            )
    return texts


def _published(rows: List[str]) -> List[str]:
    figures = [figure for figure in yaml.safe_load(PUBLISHED_FILE.read_text()) if figure["row"] in rows]
    return [
        f"{figure['row']}, {figure['model']} (published): energy RMSE {1e3 * figure['energy_rmse']:.2g} meV, "
        f"force RMSE {1e3 * figure['force_rmse']:.3g} meV/Å; {figure['note']}"
        for figure in figures
    ]


def markdown(results: List[Dict[str, Any]]) -> str:
    """The table for people; test structures, errors in the unit of the line (forces: per Å)."""
    header = (
        "| data (labels) | equal | model | protocol | energy MAE | energy RMSE | force MAE | force RMSE "
        "| epochs | training CPU s (per epoch) | inference CPU ms | training memory MiB |"
    )
    lines = [header, "|---|---|---|" + "---:|" * 9]
    for line in table_lines(results):
        lines.append(
            f"| {line['data']} ({line['labels']}; {line['unit']}) | {line['equal']} | {line['model']} "
            f"| {line['protocol']} "
            + "".join(f"| {line[name]:.3g} " for name in _ERRORS)
            + f"| {line['epochs']:.1f} | {line['training_cpu_s']} ({line['cpu_s_per_epoch']}) "
            f"| {line['inference_cpu_ms']:.1f} | {line['training_memory_mib']} |"
        )
    notes = margins(results) + _published([result["row"] for result in results])
    return "\n".join([*lines, "", *notes])


def write_csv(path: Path, results: List[Dict[str, Any]]) -> None:
    """The same lines for machines."""
    lines = table_lines(results)
    with replaced_on_success(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
