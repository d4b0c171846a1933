"""A table of versions and what works on them; every cell is the outcome of tests.

    bash scripts/test.sh    # ends with this table

Or, of results that are there: python scripts/version_table.py

Each test run leaves the versions it ran with beside its results (tests/conftest.py writes them into the XML).
"""

import argparse
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

# What works -> the tests that say so: a pattern of "tests.room.test_file.Class.test_name[parameters]".
PLATFORMS = (("Reference", "Reference"), ("CPU", "CPU"), ("OpenCL", "OpenCL (PoCL)"))
PER_PLATFORM = (
    ("all atoms by the model", r"test_openmm\.test_whole_molecule"),
    ("mixed ML/MM system", r"test_openmm\.test_subset_in_unsorted_order"),
    ("interpolation between MM and ML", r"test_openmm\.test_lambda_endpoints\w*"),
    ("DKMP^R propagator", r"test_propagator\.test_equals_the_rollout"),
)
FEATURES: Tuple[Tuple[str, str], ...] = (
    *(
        (f"{feature}, {shown} platform", rf"{pattern}\[{platform}\]")
        for feature, pattern in PER_PLATFORM
        for platform, shown in PLATFORMS
    ),
    ("periodic boxes, wrapping, barostat", r"test_(openmm\.test_periodic|periodic\.)"),
    ("constraints, virtual sites, multiple time steps, minimisation", r"test_integrators\."),
    ("System XML in a fresh process", r"test_openmm\.test_xml_round_trip"),
    ("State XML, checkpoint, restart after kill -9", r"test_restart\."),
    ("model files of earlier formats", r"test_format\."),
    ("neighbour lists with a skin", r"test_force_options\.test_(searches|two_contexts|a_system)"),
    (
        "CUDA graphs asked for (the property; no GPU)",
        r"test_force_options\.(TestCudaGraphs\.)?test_property_of_the_force",
    ),
    ("ASE calculator", r"test_ase_calculator\."),
    ("torchmd-train knows the models", r"test_(torchmd_train|continuation|command_line|dkmp_r_training)\."),
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
