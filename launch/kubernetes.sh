#!/usr/bin/env bash
# Runs an image of launch/docker on TPUs or GPUs of a Kubernetes cluster as a JobSet, which Kueue can queue.
# See `launch/kubernetes.sh --help`; docs/guides/kubernetes.md is the runbook.
set -euo pipefail
source_folder="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$source_folder/common.sh"

usage() {
  cat <<'USAGE'
usage: launch/kubernetes.sh [OPTION]... ACTION... [-- ARGUMENT OF scotd-jax]...

Actions run in the given order. After a failure only `logs` and `delete` still run.
  create    create the JobSet; with --dry-run, print it
  wait      wait until it has completed or failed
  logs      fetch the logs of its pods to LOGS/pods.log
  delete    delete the JobSet, if it was created from here

Options
  --name=NAME          start of the JobSet's name, to which a random number is added (default: scotd-jax)
  --namespace=NAME     namespace (default: the one of kubectl)
  --image=IMAGE        required by create: an image of launch/docker with PLATFORM=tpu or cuda, best with its digest
  --accelerator=NAME   nodes of GKE: tpu-v4-podslice, tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice or tpu7x, or
                       the name of a GPU, for example nvidia-h100-80gb; without it, GPUs of any node
  --topology=AxB[xC]   TPU: topology of the slice, for example 4x4
  --chips=N            TPU: chips of a node (default: 4)
  --nodes=N            GPU: number of nodes (default: 1)
  --gpus=N             GPU: GPUs of a node (default: 8)
  --queue=NAME         local queue of Kueue
  --service-account=NAME  account of the pods, which may access the bucket (default: default)
  --secret=NAME        secret whose keys become environment variables, for example HF_TOKEN
  --claim=NAME         persistent volume claim, mounted at /work on all nodes
  --restarts=N         how often the JobSet restarts after a preemption or a lost node (default: 10)
  --logs=DIR           folder for logs and the record of the JobSet's name (default: logs/NAME)
  --poll=SECONDS       interval between status checks (default: 30)
  --dry-run            print the commands without running them
  --help

All nodes must see the work directory: gs://BUCKET/PATH, or a folder below /work with --claim.

Example
  launch/kubernetes.sh --accelerator=tpu-v6e-slice --topology=4x4 --queue=research \
      --image=us-docker.pkg.dev/my-project/images/scotd-jax:tpu create wait logs delete -- \
      --config=world --workdir=gs://my-bucket/world
USAGE
}

name=scotd-jax namespace="" image="" accelerator="" topology="" chips=4 nodes=1 gpus=8 queue="" account=default
secret="" claim="" restarts=10 logs="" poll=30
actions=()
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --namespace=*) namespace="${1#*=}" ;;
    --image=*) image="${1#*=}" ;;
    --accelerator=*) accelerator="${1#*=}" ;;
    --topology=*) topology="${1#*=}" ;;
    --chips=*) chips="${1#*=}" ;;
    --nodes=*) nodes="${1#*=}" ;;
    --gpus=*) gpus="${1#*=}" ;;
    --queue=*) queue="${1#*=}" ;;
    --service-account=*) account="${1#*=}" ;;
    --secret=*) secret="${1#*=}" ;;
    --claim=*) claim="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --logs=*) logs="${1#*=}" ;;
    --poll=*) poll="${1#*=}" ;;
    --dry-run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    --)
      shift
      break
      ;;
    create | wait | logs | delete) actions+=("$1") ;;
    *) die "unknown option or action '$1'; see --help" ;;
  esac
  shift
done
arguments=("$@")

((${#actions[@]})) || die "no action; see --help"
dns='[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?'
require --name "$name" '[a-z]([a-z0-9-]{0,28}[a-z0-9])?' scotd-jax
require --namespace "${namespace:-default}" "$dns" research
require --accelerator "${accelerator:-any}" "$dns" tpu-v6e-slice
require --chips "$chips" '[1-8]' 4
require --nodes "$nodes" '[1-9][0-9]{0,3}' 2
require --gpus "$gpus" '[1-9][0-9]?' 8
require --queue "${queue:-none}" "$dns" research
require --service-account "$account" "$dns" trainer
require --secret "${secret:-none}" "$dns" hugging-face
require --claim "${claim:-none}" "$dns" shared
require --restarts "$restarts" '[0-9]{1,4}' 10
require --poll "$poll" '[0-9]{1,5}' 30
case " ${actions[*]} " in
  *" create "*)
    require_image "$image"
    [[ "${arguments[*]:-}" != *[[:cntrl:]]* ]] || die "an argument contains a line break or a control character"
    case " ${arguments[*]:-}" in
      *" --workdir=gs://"*) ;;
      *" --workdir=/work"*) [[ -n "$claim" ]] || die "--workdir=/work...: a pod loses this folder; add --claim" ;;
      *) die "pass --workdir=gs://BUCKET/PATH, or a folder below /work and --claim, after --" ;;
    esac
    ;;
  *) ((${#arguments[@]} == 0)) || die "arguments after -- need the action create, which is not among the actions" ;;
esac
"$dry_run" || command -v kubectl >/dev/null || die "kubectl is not installed: https://kubernetes.io/docs/tasks/tools"

[[ -n "$logs" ]] || logs="logs/$name"
label=scotd-jax-run
where=()
[[ -z "$namespace" ]] || where=(--namespace="$namespace")
# shellcheck source=launch/kubernetes/jobset.sh
source "$source_folder/kubernetes/jobset.sh"
describe_accelerator

kube() { run_or_print kubectl "$@" ${where[@]+"${where[@]}"}; }

create() {
  if "$dry_run"; then
    echo "$(kube create --filename=-) <<'EOF'"
    print_jobset "${arguments[@]}"
    echo EOF
    return
  fi
  [[ -z "$jobset" ]] || { log "$jobset exists: delete it first"; return 1; }
  jobset="$name-$(printf '%04x%04x' "$RANDOM" "$RANDOM")"
  write_record "$logs/jobset" "$jobset" "$place" || return 1
  print_jobset "${arguments[@]}" | kube create --filename=-
}

await() {
  local report unreachable=0
  while true; do
    if report="$(kube get jobset "$jobset" --output='jsonpath={.status.terminalState}/{.status.restarts}')"; then
      if "$dry_run"; then
        echo "$report"
        echo "# ... until it is Completed or Failed"
        return
      fi
      unreachable=0
      log "$jobset: ${report%/*} restarts: ${report#*/}"
      case "$report" in
        Completed/*) return 0 ;;
        Failed/*) return 1 ;;
      esac
    else
      unreachable=$((unreachable + 1))
      log "the cluster is unreachable ($unreachable of 5 attempts)"
      ((unreachable < 5)) || return 1
    fi
    sleep "$poll"
  done
}

fetch_logs() {
  local command=(logs --selector="jobset.sigs.k8s.io/jobset-name=$jobset" --prefix --tail=-1 --max-log-requests=1000)
  if "$dry_run"; then kube "${command[@]}"; else kube "${command[@]}" >"$logs/pods.log"; fi
}

# The selector finds nothing that was not created from here.
delete() {
  kube delete jobset --selector="$label=$jobset" || return 1
  "$dry_run" || rm -f "$logs/jobset"
}

act() {
  if "$dry_run"; then
    jobset="$name-0123abcd"
  else
    place="$(kubectl config current-context) ${namespace:-default}" || return 1
    jobset="$(read_record "$logs/jobset" "$place")" || return 1
  fi
  if [[ -z "$jobset" && "$1" != create ]]; then
    log "no JobSet: $logs/jobset has no name of one that was created from here"
    return 1
  fi
  case "$1" in
    create) create ;;
    wait) await ;;
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
