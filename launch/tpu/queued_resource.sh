# TPUs up to v6e: a queued resource of the Cloud TPU API, which creates a TPU VM of the same name. Sourced by tpu_vm.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # tpu_vm.sh sets and reads these variables

# Sets `devices` and `runtime` for `type`, a version and a number of TensorCores or chips: v4-16, v5litepod-8, v6e-8.
describe_type() {
  case "$type" in
    v2-* | v3-*) devices="${type#*-}" image_default=tpu-ubuntu2204-base ;;
    v4-*) devices=$((${type#*-} / 2)) image_default=tpu-ubuntu2204-base ;; # one device has two TensorCores
    v5p-*) devices=$((${type#*-} / 2)) image_default=v2-alpha-tpuv5 ;;
    v5litepod-*) devices="${type#*-}" image_default=v2-alpha-tpuv5-lite ;;
    v6e-*) devices="${type#*-}" image_default=v2-alpha-tpuv6e ;;
  esac
  runtime="${runtime:-$image_default}"
}

_queue() { run_or_print gcloud compute tpus queued-resources "$@" "${where[@]}"; }
_tpu_vm() { run_or_print gcloud compute tpus tpu-vm "$@" "${where[@]}"; }

# Prints NONE, or the state of the request; fails on a request of somebody else, so that nothing acts on it.
vm_state() {
  local found
  found="$(_queue list --filter="name~/$vm\$" --format="value(state.state,tpu.nodeSpec[0].node.labels.$label)")" || return 1
  if "$dry_run"; then
    echo "$found" >&3
  elif [[ -z "$found" ]]; then
    echo NONE
  elif [[ "$found" == *$'\t'"$vm" ]]; then
    echo "${found%%$'\t'*}"
  else
    log "$vm was not created by this run: it does not have the label $label=$vm"
    return 1
  fi
}

request_vm() {
  local options=(--accelerator-type="$type" --runtime-version="$runtime" --labels="$label=$vm")
  if "$spot"; then options+=(--spot); fi
  [[ -z "$secret" ]] || options+=(--scopes=cloud-platform)
  _queue create "$vm" --node-id="$vm" "${options[@]}"
}

failure_reason() { _queue describe "$vm" --format='value(state.failedData.error.message)'; }

# Deletes the request and its VM.
release_vm() {
  local state
  state="$(vm_state)" || return 1
  [[ "$state" == NONE ]] || _queue delete "$vm" --force --quiet
}

worker_names() {
  local count i
  count="$(_tpu_vm describe "$vm" --format='value(networkEndpoints.len())')" || return 1
  if "$dry_run"; then
    echo "$count" >&3
    count=1
  fi
  for ((i = 0; i < count; i++)); do echo "$i"; done
}

on_worker() { _tpu_vm ssh "$vm" --worker="$1" --command="$2"; }
on_workers() { on_worker all "$1"; }
