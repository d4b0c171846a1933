#!/usr/bin/env bash
# Makes an environment and installs this package into it with the given extras of pyproject.toml.
# Usage: bash scripts/setup.sh [extras] [folder]        (default: torchforce,demo .venv)
# Does nothing where that was done before and pyproject.toml is unchanged.
# PYTHON names the interpreter to use; by default the first of python3, python3.13 ... python3.10 that fits.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=${1:-torchforce,demo}
folder=${2:-.venv}
stamp="$folder/.installed-${extras}"
wanted=$(sha256sum pyproject.toml | cut -d' ' -f1)

if [ -x "$folder/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

if [ ! -x "$folder/bin/python" ]; then
    python=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if fits "$candidate"; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "setup: Python 3.10 to 3.13 is needed and was not found; install it, or name it: PYTHON=/path bash $0" >&2
        exit 1
    fi
    echo "setup: making $folder with $("$python" --version)"
    if ! "$python" -m venv "$folder"; then
        rm -rf "$folder"
        echo "setup: $python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
fi

echo "setup: installing dkmp-plugin[$extras] into $folder (the first time this downloads several GB)"
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"; then
    echo "setup: FAILED: pip could not install dkmp-plugin[$extras] into $folder (see above); the same command" \
        "tries again" >&2
    exit 1
fi
# Compiles the native operators now, so that no later step waits for it.
"$folder/bin/python" -m dkmp_plugin.ops.build ||
    echo "setup: the native operators were not built (see above); everything works, but slower" >&2
echo "$wanted" > "$stamp"
echo "setup: done"
