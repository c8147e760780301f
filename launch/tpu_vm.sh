#!/usr/bin/env bash
# Runs scotd_jax on a Cloud TPU VM with one or more workers: create, set up, run, fetch logs, delete.
# Works with bash 3.2 (macOS). See `launch/tpu_vm.sh --help`.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch/tpu_vm.sh [OPTION]... ACTION... [-- ARGUMENT OF scotd_jax.main]...

Actions run in the given order. After a failure only `logs` and `delete` still run.
  create    request the TPU VM and wait until it is active
  setup     copy the committed source (HEAD) to every worker and install it there
  run       start `python -m scotd_jax.main --multihost=auto ARGUMENT...` on every worker, then wait
  wait      wait for a run that was started earlier (runs continue if this machine disconnects)
  stop      stop the run on every worker
  logs      fetch every worker's log to LOGS/worker-N.log
  delete    delete the TPU VM

Options
  --name=NAME        name of the TPU VM (default: scotd-jax)
  --zone=ZONE        required, for example us-east5-b
  --project=PROJECT  Google Cloud project (default: the project of gcloud)
  --type=TYPE        accelerator type (default: v6e-8)
  --runtime=VERSION  TPU software version (default: the one for TYPE)
  --spot             cheaper, but may be preempted at any time; repeat `run` to resume
  --direct           create at once or fail, without the queue (also pass it to `delete`)
  --python=VERSION   Python version on the workers (default: 3.12)
  --logs=DIR         folder for logs (default: logs/NAME)
  --poll=SECONDS     interval between status checks (default: 30)
  --dry-run          print the commands without running them
  --help

The workers of a slice share no disk, so the work directory must be gs://BUCKET/PATH.

Example
  launch/tpu_vm.sh --zone=us-east5-b --type=v6e-16 --spot create setup run logs delete -- \
      --config=configs/world.py --workdir=gs://my-bucket/quickstart
USAGE
}

die() {
  echo "tpu_vm.sh: $*" >&2
  exit 2
}

log() { echo "tpu_vm.sh: $*" >&2; }

# Prints a command with shell quoting.
print_command() {
  local word line=""
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:=@,+~-]+$ ]]; then
      line+=" $word"
    else
      line+=" '${word//\'/\'\\\'\'}'"
    fi
  done
  echo "${line# }"
}

run_or_print() {
  if "$dry_run"; then print_command "$@"; else "$@"; fi
}

# --- options ---------------------------------------------------------------------------------------------------------

name=scotd-jax zone="" project="" type=v6e-8 runtime="" spot=false direct=false python=3.12 logs="" poll=30 dry_run=false
actions=()
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --runtime=*) runtime="${1#*=}" ;;
    --python=*) python="${1#*=}" ;;
    --logs=*) logs="${1#*=}" ;;
    --poll=*) poll="${1#*=}" ;;
    --spot) spot=true ;;
    --direct) direct=true ;;
    --dry-run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    --)
      shift
      break
      ;;
    create | setup | run | wait | stop | logs | delete) actions+=("$1") ;;
    *) die "unknown option or action '$1'; see --help" ;;
  esac
  shift
done
main_arguments=("$@")

((${#actions[@]})) || die "no action; see --help"
[[ -n "$zone" ]] || die "--zone is missing, for example --zone=us-east5-b"
[[ "$poll" =~ ^[0-9]+$ ]] || die "--poll: expected whole seconds, found '$poll'"
[[ -n "$logs" ]] || logs="logs/$name"
case " ${actions[*]} " in
  *" run "*)
    ((${#main_arguments[@]})) || die "run needs the arguments of scotd_jax.main after --"
    case " ${main_arguments[*]}" in
      *" --workdir=gs://"*) ;;
      *) die "the workers share no disk: pass --workdir=gs://BUCKET/PATH after --" ;;
    esac
    ;;
  *) ((${#main_arguments[@]} == 0)) || die "arguments after -- need the action run, which is not among the actions" ;;
esac
if [[ -z "$runtime" ]]; then
  case "$type" in
    v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) die "no TPU software version is known for --type=$type; pass --runtime" ;;
  esac
fi
"$dry_run" || command -v gcloud >/dev/null || die "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

where=("--zone=$zone")
[[ -z "$project" ]] || where+=("--project=$project")
source_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# --- commands for the workers. A run writes ~/scotd_jax-run/{log,pid}, and status when it ends ------------------------

install_command() {
  cat <<REMOTE
set -e
rm -rf ~/scotd_jax && tar -xzf ~/scotd_jax.tar.gz -C ~ && cd ~/scotd_jax
export PATH="\$HOME/.local/bin:\$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -d ~/scotd_jax-venv ] || uv venv --quiet --python $python ~/scotd_jax-venv
uv pip install --quiet --python ~/scotd_jax-venv/bin/python -c constraints.txt -e ".[tpu]"
REMOTE
}

# The run has its own session, so that it outlives this connection and `stop` ends all of its processes.
start_command() {
  cat <<REMOTE
set -e
mkdir -p ~/scotd_jax-run && cd ~/scotd_jax
if kill -0 -- "-\$(cat ~/scotd_jax-run/pid 2>/dev/null)" 2>/dev/null; then
  echo "a run is in progress: wait for it or stop it" >&2
  exit 1
fi
rm -f ~/scotd_jax-run/status ~/scotd_jax-run/pid
setsid nohup bash -c 'echo \$\$ > ~/scotd_jax-run/pid; "\$@"; echo \$? > ~/scotd_jax-run/status' run \\
  ~/scotd_jax-venv/bin/python -m scotd_jax.main --multihost=auto $(printf '%q ' "$@")\\
  >> ~/scotd_jax-run/log 2>&1 < /dev/null &
until [ -s ~/scotd_jax-run/pid ]; do sleep 0.1; done
REMOTE
}

status_command() {
  cat <<'REMOTE'
cd ~/scotd_jax-run || exit 1
tail -n 1 log
if [ -s status ]; then echo "worker-status=$(cat status)"
elif kill -0 -- "-$(cat pid)" 2>/dev/null; then echo "worker-status=running"
else echo "worker-status=lost"; fi
REMOTE
}

stop_command() {
  cat <<'REMOTE'
kill -- "-$(cat ~/scotd_jax-run/pid)" 2>/dev/null || echo "nothing is running"
REMOTE
}

# --- the actions -----------------------------------------------------------------------------------------------------

vm() { run_or_print gcloud compute tpus tpu-vm "$@" "${where[@]}"; }
queue() { run_or_print gcloud compute tpus queued-resources "$@" "${where[@]}"; }
on_workers() { vm ssh "$name" --worker=all --command="$1"; }

create() {
  local options=(--accelerator-type="$type")
  if "$spot"; then options+=(--spot); fi
  if "$direct"; then
    vm create "$name" "${options[@]}" --version="$runtime"
    return
  fi
  queue create "$name" --node-id="$name" "${options[@]}" --runtime-version="$runtime"
  local state
  while true; do
    state="$(queue describe "$name" --format='value(state.state)')"
    if "$dry_run"; then
      echo "$state"
      echo "# ... until the state is ACTIVE"
      return
    fi
    case "$state" in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        log "the request for $name is $state; delete it and create it again"
        return 1
        ;;
    esac
    log "$name is $state"
    sleep "$poll"
  done
}

setup() {
  run_or_print git -C "$source_root" archive --format=tar.gz --prefix=scotd_jax/ --output="$scratch/scotd_jax.tar.gz" HEAD
  vm scp "$scratch/scotd_jax.tar.gz" "$name:" --worker=all
  on_workers "$(install_command)"
}

run() {
  on_workers "$(start_command "$@")"
  await
}

# Waits until all workers succeed or one fails. After a failure, stops the other workers, which would wait forever.
await() {
  local report unreachable=0
  while true; do
    if report="$(on_workers "$(status_command)")"; then
      unreachable=0
      if "$dry_run"; then
        echo "$report"
        echo "# ... until no worker reports worker-status=running"
        return
      fi
      grep -v '^worker-status=' <<<"$report" | head -n 1 >&2 || true
      if grep -Eq '^worker-status=(lost|[1-9])' <<<"$report"; then
        log "a worker failed: $(grep '^worker-status=' <<<"$report" | tr '\n' ' ')"
        on_workers "$(stop_command)" >&2 || true
        return 1
      fi
      grep -q '^worker-status=running' <<<"$report" || return 0
    else
      unreachable=$((unreachable + 1))
      log "workers are unreachable ($unreachable of 5 attempts)"
      if ((unreachable == 5)); then return 1; fi
    fi
    sleep "$poll"
  done
}

fetch_logs() {
  local workers=1 i
  run_or_print mkdir -p "$logs"
  if "$dry_run"; then
    vm describe "$name" --format='value(networkEndpoints.len())'
    echo "# ... then for every worker"
  else
    workers="$(vm describe "$name" --format='value(networkEndpoints.len())')"
  fi
  for ((i = 0; i < workers; i++)); do
    vm scp "$name:scotd_jax-run/log" "$logs/worker-$i.log" --worker="$i"
  done
}

delete() {
  if "$direct"; then
    vm delete "$name" --quiet
  else
    queue delete "$name" --force --quiet
  fi
}

failed=0
for action in "${actions[@]}"; do
  case "$action" in
    logs | delete) ;;
    *) ((failed == 0)) || continue ;;
  esac
  log "$action"
  # A subshell outside of any condition, so that `set -e` applies inside it.
  set +e
  (
    set -e
    case "$action" in
      create) create ;;
      setup) setup ;;
      run) run "${main_arguments[@]}" ;;
      wait) await ;;
      stop) on_workers "$(stop_command)" ;;
      logs) fetch_logs ;;
      delete) delete ;;
    esac
  )
  status=$?
  set -e
  if ((status)); then
    log "$action failed (status $status)"
    failed=1
  fi
done
exit "$failed"
