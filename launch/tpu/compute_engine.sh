# TPU7x: Flex-start VMs of Compute Engine, as a managed instance group that is created at once. Sourced by tpu_vm.sh.
# An instance template, for several hosts also a workload policy, and the group all have the name of the VM. Their
# description marks them as this run's.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # tpu_vm.sh sets and reads these variables

# Sets `hosts`, `devices` and `runtime` for `type`, for example tpu7x-2x2x2: hosts have 4 chips, and chips 2 devices.
describe_type() {
  local chips=1 size
  topology="${type#*-}"
  for size in ${topology//x/ }; do chips=$((chips * size)); done
  ((chips % 4 == 0)) || die "--type=$type: a host has 4 chips, so their number must be a multiple of 4"
  hosts=$((chips / 4)) devices=$((chips * 2))
  runtime="${runtime:-ubuntu-accel-2404-amd64-tpu-tpu7x}"
  [[ -n "$project" ]] || die "--type=$type needs --project"
  ! "$spot" || die "--spot: $type is requested with Flex-start"
  region="${zone%-*}"
}

_compute() { run_or_print gcloud compute "$@" --project="$project"; }
_instances() { _compute instance-groups managed list-instances "$vm" --zone="$zone" --format="value($1)"; }
_mark() { echo "$label=$vm"; }

# Prints 1 if the resource of this kind exists, nothing if it does not; fails if somebody else created it.
_owned() {
  local found
  found="$(_compute "$@" list --filter="name=$vm" --format='value(name,description)')" || return 1
  if "$dry_run"; then
    echo "$found" >&3
    echo 1
  elif [[ "$found" == "$vm"$'\t'"$(_mark)" ]]; then
    echo 1
  elif [[ -n "$found" ]]; then
    log "$* $vm was not created by this run: its description is not $(_mark)"
    return 1
  fi
}

# Prints NONE, ACTIVE (all hosts run), WAITING, or SUSPENDED (a host was lost, or a request failed half-way).
vm_state() {
  local owned running
  owned="$(_owned instance-groups managed)" || return 1
  if [[ -z "$owned" ]]; then
    owned="$(_owned instance-templates)" || return 1
    if ((hosts > 1)) && [[ -z "$owned" ]]; then owned="$(_owned resource-policies)" || return 1; fi
    if [[ -n "$owned" ]]; then echo SUSPENDED; else echo NONE; fi
    return
  fi
  running="$(_instances instanceStatus)" || return 1
  if "$dry_run"; then
    echo "$running" >&3
  elif [[ "$(grep -cx RUNNING <<<"$running")" == "$hosts" ]]; then
    touch "$logs/active"
    echo ACTIVE
  elif [[ -e "$logs/active" ]]; then
    echo SUSPENDED
  else
    echo WAITING
  fi
}

request_vm() {
  local mark placement=()
  mark="$(_mark)"
  "$dry_run" || rm -f "$logs/active"
  if ((hosts > 1)); then
    _compute resource-policies create workload-policy "$vm" --region="$region" --description="$mark" \
      --type=HIGH_THROUGHPUT --accelerator-topology="$topology" || return 1
    placement=(--workload-policy="projects/$project/regions/$region/resourcePolicies/$vm")
  fi
  _compute instance-templates create "$vm" --description="$mark" --labels="$label=$vm" \
    --machine-type="${type%%-*}-standard-4t" --image-project=ubuntu-os-accelerator-images --image-family="$runtime" \
    --boot-disk-size=200GB --boot-disk-type=hyperdisk-balanced --scopes=cloud-platform \
    --provisioning-model=FLEX_START --max-run-duration="$max_run" --instance-termination-action=DELETE \
    --maintenance-policy=TERMINATE --reservation-affinity=none || return 1
  _compute instance-groups managed create "$vm" --zone="$zone" --description="$mark" --template="$vm" --size="$hosts" \
    --target-size-policy-mode=bulk --default-action-on-vm-failure=do-nothing ${placement[@]+"${placement[@]}"}
}

failure_reason() { _compute instance-groups managed list-errors "$vm" --zone="$zone"; }

# Deletes the group with its VMs, the template and the policy, each if it exists.
release_vm() {
  local owned
  owned="$(_owned instance-groups managed)" || return 1
  [[ -z "$owned" ]] || _compute instance-groups managed delete "$vm" --zone="$zone" --quiet || return 1
  owned="$(_owned instance-templates)" || return 1
  [[ -z "$owned" ]] || _compute instance-templates delete "$vm" --quiet || return 1
  ((hosts > 1)) || return 0
  owned="$(_owned resource-policies)" || return 1
  [[ -z "$owned" ]] || _compute resource-policies delete "$vm" --region="$region" --quiet
}

worker_names() {
  local names
  names="$(_instances 'instance.basename()')" || return 1
  if "$dry_run"; then
    echo "$names" >&3
    names="$vm-WORKER"
  fi
  echo "$names"
}

on_worker() { _compute ssh "$1" --zone="$zone" --command="$2"; }

# Runs the command on all workers at the same time.
on_workers() {
  local names worker pid pids=() status=0
  names="$(worker_names)" || return 1
  [[ -n "$names" ]] || return 1
  for worker in $names; do
    on_worker "$worker" "$1" &
    pids+=("$!")
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  return "$status"
}
