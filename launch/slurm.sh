#!/usr/bin/env bash
# Submits a run on GPUs of one or more nodes to Slurm, with one process per GPU, in an image of launch/docker.
# See `launch/slurm.sh --help`; docs/guides/slurm.md is the runbook.
set -euo pipefail
source_folder="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$source_folder/common.sh"

usage() {
  cat <<'USAGE'
usage: launch/slurm.sh [OPTION]... -- ARGUMENT OF scotd-jax...

Submits launch/slurm.sbatch, which is requeued after a preemption and shortly before its time limit, and then resumes.

Options
  --nodes=N          number of nodes (default: 1)
  --gpus=N           GPUs of each node (default: 8)
  --image=IMAGE      required: an image of launch/docker with PLATFORM=cuda, as REGISTRY#IMAGE:TAG, or a .sqsh file
  --mounts=SRC:DST   folders of the cluster in the container, separated by commas: the work directory, the model cache
  --partition=NAME   Slurm partition
  --account=NAME     Slurm account
  --time=TIME        time limit, for example 24:00:00
  --name=NAME        name of the job and of its log NAME-JOB.log (default: scotd-jax)
  --restarts=N       how often the job is requeued (default: 100)
  --dry-run          print the command without running it
  --help

All nodes must see the work directory: a folder of a shared file system that is mounted, or gs://BUCKET/PATH.

Example
  launch/slurm.sh --nodes=2 --image=ghcr.io#me/scotd-jax:cuda --mounts=/shared:/shared --time=24:00:00 -- \
      --config=world --workdir=/shared/runs/world
USAGE
}

name=scotd-jax nodes=1 gpus=8 image="" mounts="" restarts=100
options=()
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --nodes=*) nodes="${1#*=}" ;;
    --gpus=*) gpus="${1#*=}" ;;
    --image=*) image="${1#*=}" ;;
    --mounts=*) mounts="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --partition=?* | --account=?* | --time=?*) options+=("$1") ;;
    --dry-run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    --)
      shift
      break
      ;;
    *) die "unknown option '$1'; see --help" ;;
  esac
  shift
done

require --name "$name" '[A-Za-z0-9][A-Za-z0-9._-]*' scotd-jax
require --nodes "$nodes" '[1-9][0-9]{0,4}' 2
require --gpus "$gpus" '[1-9][0-9]?' 8
require --restarts "$restarts" '[0-9]{1,4}' 100
require --image "$image" '[A-Za-z0-9/._][A-Za-z0-9/._#:@-]*' ghcr.io#me/scotd-jax:cuda
[[ -z "$mounts" ]] || require --mounts "$mounts" '/[^:, ]*:/[^, ]*(,/[^:, ]*:/[^, ]*)*' /shared:/shared
case " $*" in
  *" --workdir="?*) ;;
  *) die "pass --workdir=DIR, a folder that all nodes see, after --" ;;
esac
"$dry_run" || command -v sbatch >/dev/null || die "sbatch is not installed: run this on a login node of a Slurm cluster"

run_or_print sbatch --job-name="$name" --output="$name-%j.log" --nodes="$nodes" --ntasks-per-node="$gpus" \
  --gpus-per-node="$gpus" ${options[@]+"${options[@]}"} "$source_folder/slurm.sbatch" \
  "$image" "$mounts" "$((nodes * gpus))" "$restarts" "$@"
