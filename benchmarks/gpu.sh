#!/usr/bin/env bash
# Measures one GPU within ten minutes and writes benchmarks/results/gpu.json: correctness of fused attention, one update
# and one sampling case of OPT-1.3B, with MFU, share of the bandwidth, and memory against the plan's.
#
#   benchmarks/gpu.sh [--shrink]     (PYTHON=.venv/bin/python, RESULTS=benchmarks/results/gpu.json)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

results="${RESULTS:-benchmarks/results/gpu.json}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
if command -v nvidia-smi > /dev/null; then
  nvidia-smi --query-gpu=name,driver_version,memory.used,memory.total --format=csv
fi
# JAX uses three quarters of the memory by default.
export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-0.92}"
timeout 600 "${PYTHON:-python3}" -m benchmarks.gpu "$@" | tee "$log"
tail -n 1 "$log" > "$results"
echo "Results: $results"
