"""A table of versions and what works on them; every cell is the outcome of tests.

    bash scripts/test.sh --junitxml=runs/stacks/torchforce.xml
    bash scripts/test_latest_stack.sh --junitxml=runs/stacks/latest.xml
    python scripts/version_table.py

Each test run leaves the versions it ran with beside its results (tests/conftest.py writes them into the XML).
"""

import argparse
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

# What works -> the tests that say so: a pattern of "tests.room.test_file.Class.test_name[parameters]".
FEATURES: Tuple[Tuple[str, str], ...] = (
    ("all atoms by the model, Reference platform", r"test_openmm\.test_whole_molecule\[Reference\]"),
    ("all atoms by the model, CPU platform", r"test_openmm\.test_whole_molecule\[CPU\]"),
    ("all atoms by the model, OpenCL platform (PoCL)", r"test_openmm\.test_whole_molecule\[OpenCL\]"),
    ("mixed ML/MM system", r"test_openmm\.test_subset_in_unsorted_order"),
    ("interpolation between MM and ML", r"test_openmm\.test_lambda_endpoints"),
    ("periodic boxes, wrapping, barostat", r"test_(openmm\.test_periodic|periodic\.)"),
    ("constraints, virtual sites, multiple time steps, minimisation", r"test_integrators\."),
    ("System XML in a fresh process", r"test_openmm\.test_xml_round_trip"),
    ("State XML, checkpoint, restart after kill -9", r"test_restart\."),
    ("model files of earlier formats", r"test_format\."),
    ("ASE calculator", r"test_ase_calculator\."),
    ("DKMP^R propagator in OpenMM", r"test_propagator\."),
    ("torchmd-train knows the models", r"test_(torchmd_train|dkmp_r_training)\."),
    ("native operators", r"tests\.ops\."),
)
VERSIONS = ("python", "torch", "openmm", "openmmml", "openmmtorch", "torchmd-net", "backend")


def read_outcomes(path: Path) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Versions, and outcome (``passed``, ``failed``, ``skipped``) of every test of a JUnit XML file.

    Raises:
        ValueError: If the file is missing or holds no tests.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the tests with --junitxml={path}")
    root = ElementTree.parse(path).getroot()
    versions = {entry.get("name", ""): entry.get("value", "") for entry in root.iter("property")}
    outcomes = {}
    for case in root.iter("testcase"):
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        outcome = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
        outcomes[f"{case.get('classname')}.{case.get('name')}"] = outcome
    if not outcomes:
        raise ValueError(f"{path} holds no tests")
    return versions, outcomes


def cell(pattern: str, outcomes: Dict[str, str]) -> str:
    """``yes (tests)``, ``NO (failed of tests)``, ``skipped`` or ``not tested``."""
    chosen = [outcome for name, outcome in outcomes.items() if re.search(pattern, name)]
    failed, passed = chosen.count("failed"), chosen.count("passed")
    if failed:
        return f"NO ({failed} of {len(chosen)})"
    if passed:
        return f"yes ({passed})"
    return "skipped" if chosen else "not tested"


def table(stacks: Sequence[Tuple[str, Dict[str, str], Dict[str, str]]]) -> str:
    """Markdown: one column per stack (name, versions, outcomes)."""
    lines: List[List[str]] = [["", *(f"**{name}**" for name, _, _ in stacks)]]
    lines.append(["---"] * (1 + len(stacks)))
    for package in VERSIONS:
        lines.append([package, *(versions.get(package, "–") for _, versions, _ in stacks)])
    for feature, pattern in FEATURES:
        lines.append([feature, *(cell(pattern, outcomes) for _, _, outcomes in stacks)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="*",
        default=[Path("runs/stacks/torchforce.xml"), Path("runs/stacks/latest.xml")],
        help="JUnit XML files [runs/stacks/torchforce.xml runs/stacks/latest.xml]",
    )
    try:
        stacks = [(path.stem, *read_outcomes(path)) for path in parser.parse_args().results]
    except ValueError as error:
        print(f"version_table: {error}", file=sys.stderr)
        return 2
    print(table(stacks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
