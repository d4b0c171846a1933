#!/usr/bin/env bash
# Installs the peers that scripts/benchmark_*.py compare with into a folder of their own, because their pins
# contradict the torchforce stack. Usage: bash scripts/install_benchmark_peers.sh [FOLDER]
# Then: PYTHONPATH=FOLDER .venv/bin/python scripts/benchmark_main.py
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-peers}
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" \
    schnetpack==2.1.1 hydra-core omegaconf antlr4-python3-runtime==4.9.3 hydra-colorlog colorlog \
    tensorboardX dirsync rich markdown-it-py mdurl pygments pytorch-lightning progressbar2 python-utils \
    fasteners torch_ema matscipy vesin egnn-pytorch==0.2.8 einops numba llvmlite
echo "peers installed; use them with PYTHONPATH=$folder"
