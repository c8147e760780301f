#!/usr/bin/env bash
# Runs an image of scotd_jax on a Cloud TPU VM with one or more workers: create, set up, run, fetch logs, delete.
# Works with bash 3.2 (macOS). See `launch/tpu_vm.sh --help`; docs/guides/tpu_vms.md is the runbook.
set -euo pipefail
source_folder="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$source_folder/common.sh"

usage() {
  cat <<'USAGE'
usage: launch/tpu_vm.sh [OPTION]... ACTION... [-- ARGUMENT OF scotd-jax]...

Actions run in the given order. After a failure only `logs` and `delete` still run.
  create    request the TPU VM and wait until it is active; a request that was suspended is deleted and made again
  setup     pull the image on every worker
  run       start `scotd-jax --multihost=auto --devices=N ARGUMENT...` on every worker, then wait; after a preemption
            create, set up and run again
  wait      wait for a run that was started earlier (runs continue if this machine disconnects)
  stop      stop the run on every worker: it saves its state and ends
  logs      fetch every worker's log to LOGS/WORKER.log
  delete    delete the TPU VM, if it was created from here

Options
  --name=NAME        start of the VM's name, to which a random number is added (default: scotd-jax)
  --zone=ZONE        required, for example us-east5-b
  --project=PROJECT  Google Cloud project (default: the project of gcloud; required for TPU7x)
  --type=TYPE        accelerator type, for example v5litepod-8, or tpu7x-2x2x2 for a topology (default: v6e-8)
  --image=IMAGE      required by setup and run: an image of launch/docker with PLATFORM=tpu, best with its digest
  --runtime=VERSION  TPU software version, or image family of a TPU7x (default: the one for TYPE)
  --secret=NAME      secret of Secret Manager with a token of the Hugging Face Hub, which becomes HF_TOKEN of the run
  --spot             cheaper, but may be preempted at any time (types up to v6e)
  --max-run=TIME     a TPU7x is deleted after this time, at most 7d (default: 7d)
  --retries=N        how often a preempted VM is requested again (default: 10)
  --logs=DIR         folder for logs and the record of the VM's name (default: logs/NAME)
  --poll=SECONDS     interval between status checks (default: 30)
  --dry-run          print the commands without running them
  --help

The workers of a slice share no disk, so the work directory must be gs://BUCKET/PATH.

Example
  launch/tpu_vm.sh --zone=us-east5-b --type=v6e-16 --spot --image=us-docker.pkg.dev/my-project/images/scotd-jax:tpu \
      create setup run logs delete -- --config=world --workdir=gs://my-bucket/quickstart
USAGE
}

# --- options ---------------------------------------------------------------------------------------------------------

name=scotd-jax zone="" project="" type=v6e-8 image="" secret="" runtime="" spot=false max_run=7d retries=10 logs="" poll=30
actions=()
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --image=*) image="${1#*=}" ;;
    --secret=*) secret="${1#*=}" ;;
    --runtime=*) runtime="${1#*=}" ;;
    --max-run=*) max_run="${1#*=}" ;;
    --retries=*) retries="${1#*=}" ;;
    --logs=*) logs="${1#*=}" ;;
    --poll=*) poll="${1#*=}" ;;
    --spot) spot=true ;;
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
arguments=("$@")

((${#actions[@]})) || die "no action; see --help"
require --name "$name" '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' scotd-jax
require --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z0-9]+' us-east5-b
number='[1-9][0-9]*'
require --type "$type" "(v2|v3|v4|v5p|v5litepod|v6e)-$number|tpu7x-${number}x${number}x$number" "v6e-8 or tpu7x-2x2x1"
require --max-run "$max_run" '[1-9][0-9]*[mhd]' 24h
require --retries "$retries" '[0-9]{1,3}' 10
require --poll "$poll" '[0-9]{1,5}' 30
[[ -z "$project" ]] || require --project "$project" '[a-z][a-z0-9.:-]*' my-project
[[ -z "$secret" ]] || require --secret "$secret" '[A-Za-z0-9_-]{1,255}' hugging-face
[[ -z "$runtime" ]] || require --runtime "$runtime" '[a-z0-9.-]+' v2-alpha-tpuv6e
for action in "${actions[@]}"; do
  if [[ "$action" == setup || "$action" == run ]]; then
    require_image "$image"
  fi
done
case " ${actions[*]} " in
  *" run "*)
    ((${#arguments[@]})) || die "run needs the arguments of scotd-jax after --"
    case " ${arguments[*]}" in
      *" --workdir=gs://"*) ;;
      *) die "the workers share no disk: pass --workdir=gs://BUCKET/PATH after --" ;;
    esac
    ;;
  *) ((${#arguments[@]} == 0)) || die "arguments after -- need the action run, which is not among the actions" ;;
esac
"$dry_run" || command -v gcloud >/dev/null || die "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

where=(--zone="$zone")
[[ -z "$project" ]] || where+=(--project="$project")
[[ -n "$logs" ]] || logs="logs/$name"
label=scotd-jax-run
vm="" # the name of the VM that was created from here, as recorded in $logs/vm
place="$type ${where[*]}"
exec 3>&1 # where functions whose output is captured print the commands of a dry run
case "$type" in
  tpu7x-*) provider=compute_engine ;;
  *) provider=queued_resource ;;
esac
# shellcheck source=launch/tpu/queued_resource.sh
source "$source_folder/tpu/$provider.sh"
# shellcheck source=launch/tpu/worker_commands.sh
source "$source_folder/tpu/worker_commands.sh"
describe_type

# --- the actions -----------------------------------------------------------------------------------------------------

# Requests a VM, and waits until it is active.
create() {
  local state requests=0
  if "$dry_run"; then
    vm_state
    request_vm
    vm_state
    echo "# ... until the VM is active"
    return
  fi
  while true; do
    state=NONE
    [[ -z "$vm" ]] || state="$(vm_state)" || return 1
    log "$state${vm:+: $vm}"
    case "$state" in
      ACTIVE) return 0 ;;
      NONE)
        ((requests++ <= retries)) || return 1
        vm="$name-$(printf '%04x%04x' "$RANDOM" "$RANDOM")"
        write_record "$logs/vm" "$vm" "$place" && request_vm || return 1
        continue
        ;;
      SUSPENDED) release_vm || return 1 ;;
      FAILED)
        failure_reason >&2 || true
        release_vm || true
        return 1
        ;;
    esac
    sleep "$poll"
  done
}

setup() { on_workers "$(setup_command)"; }

# Starts the run and waits for it. After a preemption, of a worker or of the whole VM, does so again.
run() {
  local restarts=0 status
  "$dry_run" || rm -f "$logs/stopped"
  while true; do
    status=0
    { on_workers "$(start_command "$@")" && await; } || status=$?
    if "$dry_run" || ((status == 0)); then return 0; fi
    # A preemption may end some workers with any status before it shows in the state of the VM.
    ((status == restart_status)) || { sleep "$poll" && vm_is_lost; } || return 1
    [[ ! -e "$logs/stopped" ]] || { log "stopped"; return 1; }
    ((restarts++ < retries)) || return 1
    log "preempted: restart $restarts of at most $retries"
    create && setup || return 1
  done
}

vm_is_lost() {
  local state
  state="$(vm_state)" && [[ "$state" != ACTIVE ]]
}

# Waits until all workers succeed or one ends otherwise; then stops the others, which would wait for it forever.
# Returns `restart_status` if the same command would resume.
await() {
  local report statuses unreachable=0
  while true; do
    if report="$(on_workers "$(status_command)")"; then
      if "$dry_run"; then
        echo "$report"
        echo "# ... until no worker reports worker-status=running"
        return
      fi
      unreachable=0
      grep -v '^worker-status=' <<<"$report" | head -n 1 >&2 || true
      statuses="$(sed -n 's/^worker-status=//p' <<<"$report")"
      if grep -Evxq 'running|0' <<<"$statuses"; then
        log "workers ended: $(tr '\n' ' ' <<<"$statuses")"
        on_workers "$(stop_command)" >&2 || true
        grep -Evxq "running|0|$restart_status" <<<"$statuses" || return "$restart_status"
        return 1
      fi
      grep -xq running <<<"$statuses" || return 0
    else
      unreachable=$((unreachable + 1))
      log "workers are unreachable ($unreachable of 5 attempts)"
      if vm_is_lost; then return "$restart_status"; fi
      ((unreachable < 5)) || return 1
    fi
    sleep "$poll"
  done
}

# Stops the run; a launcher that waits for it sees by the mark that this was no preemption.
stop() {
  "$dry_run" || touch "$logs/stopped"
  on_workers "$(stop_command)"
}

fetch_logs() {
  local names worker status=0
  names="$(worker_names)" || return 1
  for worker in $names; do
    if "$dry_run"; then
      on_worker "$worker" "sudo docker logs scotd-jax 2>&1"
      echo "# ... for every worker, into $logs/WORKER.log"
    else
      on_worker "$worker" "sudo docker logs scotd-jax 2>&1" >"$logs/$worker.log" || status=1
    fi
  done
  return "$status"
}

delete() {
  release_vm || return 1
  "$dry_run" || rm -f "$logs/vm" "$logs/active" "$logs/stopped"
}

act() {
  vm="$(read_record "$logs/vm" "$place")" || return 1
  if "$dry_run"; then
    vm="${vm:-$name-0123abcd}"
  elif [[ -z "$vm" && "$1" != create ]]; then
    log "no VM: $logs/vm has no name of one that was created from here"
    return 1
  fi
  case "$1" in
    create) create ;;
    setup) setup ;;
    run) run "${arguments[@]}" ;;
    wait) await ;;
    stop) stop ;;
    logs) fetch_logs ;;
    delete) delete ;;
  esac
}

failed=0
for action in "${actions[@]}"; do
  [[ "$action" == logs || "$action" == delete ]] || ((failed == 0)) || continue
  log "$action"
  act "$action" || {
    log "$action failed (status $?)"
    failed=1
  }
done
exit "$failed"
