#!/usr/bin/env bash
# The tests that depend on OpenMM and torch, on the newest stack (PythonForce instead of TorchForce), in an
# environment of its own: .venv-latest. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=.venv-latest
stamp="$environment/.installed"
wanted=$(sha256sum pyproject.toml | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    [ -x "$environment/bin/python" ] || "${PYTHON:-python3}" -m venv "$environment"
    echo "test: installing dkmp-plugin[latest,demo,test] into $environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[latest,demo,test]"
    echo "$wanted" > "$stamp"
fi
"$environment/bin/dkmp" info
"$environment/bin/python" -m pytest tests/simulation tests/models tests/training tests/ops \
    tests/test_autoload.py tests/test_config.py tests/test_cli.py "$@"
