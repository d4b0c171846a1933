#!/usr/bin/env bash
# Formatting, types and tests; arguments go to pytest, e.g. bash scripts/test.sh tests/datasets -k splits
# Installs what is missing into .venv, and, as root on Debian and Ubuntu, the compiler and OpenCL on the CPU.
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

system_packages
bash scripts/setup.sh torchforce,demo,test
check "ruff check" .venv/bin/ruff check .
check "ruff format" .venv/bin/ruff format --check .
check "mypy" .venv/bin/mypy
check "pytest" .venv/bin/python -m pytest "$@"

if [ ${#failed[@]} -gt 0 ]; then
    echo "test: FAILED: ${failed[*]}"
    exit 1
fi
echo "test: all checks passed"
