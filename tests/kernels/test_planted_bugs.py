"""Planted faults: every check that is said to find one does, and none complains about the sound text."""

import pytest

from tests.kernels.checks import CHECKS, obstacle
from tests.kernels.planted_bugs import BUGS, VERIFY, barriers, source_of

# KernelError is one, a wrong result raises one; a text that does not compile raises something else.
FOUND = AssertionError


def need(check):
    if obstacle(check):
        pytest.skip(obstacle(check))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("file", VERIFY)
def test_sound_text_passes(file, check):
    need(check)
    VERIFY[file](CHECKS[check](source_of(file)))


@pytest.mark.parametrize(
    "bug, check",
    [
        pytest.param(bug, check, id=f"{bug.file}: {bug.name}, {check}")
        for bug in BUGS
        for check in bug.found_by
    ],
)
def test_fault_is_found(bug, check):
    need(check)
    with pytest.raises(FOUND):
        VERIFY[bug.file](CHECKS[check](bug.plant()))


@pytest.mark.parametrize("file", VERIFY)
def test_every_barrier_is_needed(file):
    need("thread")
    for number, source in enumerate(barriers(file)):
        try:
            VERIFY[file](CHECKS["thread"](source))
        except FOUND:
            continue
        pytest.fail(f"nothing is wrong without barrier {number} of {file}: is it needed, is it tested?")
