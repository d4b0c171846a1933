#!/usr/bin/env bash
# The tests that depend on the versions of OpenMM and torch, on the newest ones (PythonForce instead of
# TorchForce), in an environment of its own: .venv-latest. Part of scripts/test.sh.
#   bash scripts/test_latest_stack.sh [arguments for pytest]
#   bash scripts/test_latest_stack.sh --install-only
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh latest,demo,test .venv-latest
[ "${1:-}" = --install-only ] && exit 0
.venv-latest/bin/dkmp info
exec .venv-latest/bin/python -m pytest tests/simulation tests/ops/test_edge_vectors.py \
    tests/training/test_torchmd_train.py tests/test_autoload.py "$@"
