#!/usr/bin/env bash
# Installs scotd_jax and the pinned packages of one platform into the active Python environment, as the Docker image does.
#
#   launch/docker/install.sh cpu|cuda|tpu
#
# PyTorch only verifies exports and reads legacy weights, so its CPU wheel from TORCH_INDEX is enough on every platform.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

platform="${1:-}"
requirements=(-r requirements/base.txt -r requirements/gcs.txt)
case "$platform" in
  cpu) ;;
  cuda | tpu) requirements+=(-r "requirements/$platform.txt") ;;
  *)
    echo "install.sh: expected the platform cpu, cuda or tpu, found '$platform'" >&2
    exit 2
    ;;
esac

python -m pip install --require-hashes "${requirements[@]}"
python -m pip install --no-deps --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" \
  -c constraints.txt torch
python -m pip install -c constraints.txt ".[gcs,torch]"
