"""The table of versions says what the tests said, and its tests exist."""

import ast
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
try:
    import version_table
finally:
    sys.path.remove(str(ROOT / "scripts"))

RESULTS = """
import pytest
def test_whole_molecule(record_testsuite_property): record_testsuite_property("openmm", "8.4.0")
@pytest.mark.parametrize("platform", ["CPU"])
def test_subset_in_unsorted_order(platform): assert False
def test_lambda_endpoints(): pytest.skip("why")
@pytest.mark.parametrize("number", [1, 2])
def test_xml_round_trip(number): assert number == 1
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What pytest writes about passed, failed and skipped tests."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "test_openmm.py").write_text(RESULTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    subprocess.run([*command, f"--junitxml={folder / 'latest.xml'}", str(folder)], capture_output=True)
    return folder / "latest.xml"


def test_cells_are_outcomes(results):
    versions, outcomes = version_table.read_outcomes(results)
    assert versions["openmm"] == "8.4.0"
    assert version_table.cell("test_whole_molecule", outcomes) == "yes (1)"
    assert version_table.cell("test_subset_in_unsorted_order", outcomes) == "NO (1 of 1)"
    assert version_table.cell("test_xml_round_trip", outcomes) == "NO (1 of 2)"
    assert version_table.cell("test_lambda_endpoints", outcomes) == "skipped"
    assert version_table.cell("test_propagator", outcomes) == "not tested"
    text = version_table.table([("latest", versions, outcomes)])
    assert "| openmm | 8.4.0 |" in text and "| mixed ML/MM system, CPU platform | NO (1 of 1) |" in text


def test_missing_results(tmp_path):
    with pytest.raises(ValueError, match="run the tests with --junitxml"):
        version_table.read_outcomes(tmp_path / "none.xml")


@pytest.mark.parametrize("feature", version_table.FEATURES, ids=lambda feature: feature[0])
def test_every_feature_has_its_tests(feature):
    """A renamed test must not leave a row behind that says `not tested`."""
    names = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names += [
            f"{module}.{node.name}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
    pattern = re.sub(r"\\\[.*", "", feature[1])
    assert any(re.search(pattern, name) for name in names)
