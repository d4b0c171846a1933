#!/usr/bin/env bash
# The main job on real input: label p-xylene, train DKMP^C, evaluate, export, simulate it in T4 lysozyme, report.
# Everything lands in runs/demo/; a step whose output is newer than what it is made from is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh torchforce,demo
out=runs/demo
mkdir -p "$out"
python=.venv/bin/python
# Progress bars and messages in order, also when the output goes to a file.
export PYTHONUNBUFFERED=1

# step NAME OUTPUT INPUT... -- COMMAND...: runs the command unless OUTPUT is newer than every INPUT.
step() {
    local name=$1 output=$2 inputs=()
    shift 2
    while [ "$1" != "--" ]; do
        inputs+=("$1")
        shift
    done
    shift
    local stale=""
    [ -e "$output" ] || stale="missing"
    local input
    for input in "${inputs[@]}"; do
        [ -e "$output" ] && [ "$input" -nt "$output" ] && stale="older than $input"
    done
    if [ -z "$stale" ]; then
        echo "== $name: kept ($output)"
        return
    fi
    echo "== $name ($output: $stale)"
    local start=$SECONDS
    "$@"
    echo "== $name: $((SECONDS - start)) s"
}

train() {
    # Checkpoints of another training would compete for being the best.
    rm -rf "$out/training"
    local start=$SECONDS
    # Molecules this small gain nothing from a second thread, and lose much where other work runs beside it.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} .venv/bin/torchmd-train --conf examples/dkmp.yaml
    # Written last: says that the training finished, and how long it took.
    echo "$((SECONDS - start))" > "$out/training/seconds.txt"
}

step "label" "$out/p_xylene.h5" examples/01_label_p_xylene.py examples/t4_lysozyme.py -- \
    "$python" examples/01_label_p_xylene.py
step "train" "$out/training/seconds.txt" "$out/p_xylene.h5" examples/dkmp.yaml -- \
    train
step "evaluate" "$out/evaluation.json" "$out/training/seconds.txt" examples/02_evaluate.py -- \
    "$python" examples/02_evaluate.py --keep-best "$out/best.ckpt"
step "export" "$out/model.pt" "$out/best.ckpt" -- \
    .venv/bin/dkmp export "$out/best.ckpt" "$out/model.pt"
step "simulate" "$out/simulation/simulation.json" "$out/model.pt" examples/03_simulate_t4l.py -- \
    "$python" examples/03_simulate_t4l.py
step "report" "$out/report.html" "$out/simulation/simulation.json" "$out/evaluation.json" examples/04_report.py -- \
    "$python" examples/04_report.py

cat <<END

Trajectory:  $out/simulation/trajectory.dcd (topology: $out/simulation/start.pdb)
Numbers:     $out/evaluation.json, $out/simulation/simulation.json, $out/simulation/state.csv
Pictures:    $out/energy_and_temperature.png, $out/learning_curve.png
Page:        $out/report.html
Model:       $out/model.pt
END
