#!/usr/bin/env bash
# Formatting, types, tests, the tests on the newest OpenMM and torch, and the table of what works on which.
# With arguments, which go to pytest, only the default stack: bash scripts/test.sh tests/datasets -k splits
# Installs what is missing into .venv and .venv-latest, and, as root on Debian and Ubuntu, the compiler and
# OpenCL on the CPU.
set -euo pipefail
cd "$(dirname "$0")/.."

system_packages() {
    local missing=()
    command -v g++ >/dev/null || missing+=(g++)
    [ -e /etc/OpenCL/vendors/pocl.icd ] || missing+=(pocl-opencl-icd)
    ldconfig -p 2>/dev/null | grep -q libOpenCL.so.1 || missing+=(ocl-icd-libopencl1)
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "test: not installed: ${missing[*]}; the tests that need them say so and are skipped" >&2
        return
    fi
    echo "test: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # The package lists of a bare machine are empty: fetch them when the first try fails.
    apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -y -qq "${missing[@]}" >/dev/null; } ||
        echo "test: apt-get failed; the tests that need ${missing[*]} are skipped" >&2
}

failed=()
check() {
    local name=$1
    shift
    echo "== $name"
    "$@" </dev/null || failed+=("$name")
}

# One process per core, up to eight, shares the tests; each computes with one thread.
workers=$(nproc)
[ "$workers" -le 8 ] || workers=8
export OMP_NUM_THREADS=1 OPENMM_CPU_THREADS=1
system_packages
bash scripts/setup.sh torchforce,demo,test
mkdir -p runs/stacks
if [ $# -eq 0 ]; then
    # Downloads while the tests of the default stack compute.
    bash scripts/test_latest_stack.sh --install-only >runs/stacks/install-latest.log 2>&1 </dev/null &
    installing=$!
fi
check "ruff check" .venv/bin/ruff check .
check "ruff format" .venv/bin/ruff format --check .
check "mypy" .venv/bin/mypy
check "pytest" .venv/bin/python -m pytest -n "$workers" --dist loadfile \
    --junitxml=runs/stacks/torchforce.xml "$@"
if [ $# -eq 0 ]; then
    if wait "$installing"; then
        check "pytest, latest stack" bash scripts/test_latest_stack.sh -n "$workers" --dist loadfile \
            --junitxml=runs/stacks/latest.xml
        check "versions and what works" .venv/bin/python scripts/version_table.py
    else
        cat runs/stacks/install-latest.log >&2
        failed+=("installing the latest stack into .venv-latest")
    fi
fi

if [ ${#failed[@]} -gt 0 ]; then
    echo "test: FAILED: ${failed[*]}"
    exit 1
fi
echo "test: all checks passed"
