"""Stand-ins for the programs that launchers call. Each records its calls in $CLOUD/calls and can be made to fail.

$CLOUD/fail_at is the number of the call that fails: "3" before it has any effect, "3 after" when all is done.
"""

import os
import subprocess
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"

# Records the call as one line, and fails if it is the one that $CLOUD/fail_at names.
RECORD = r"""#!/usr/bin/env bash
call="${0##*/} $*"
echo "$$ ${call%%$'\n'*}" >> "$CLOUD/calls"
read -r fail_at when 2>/dev/null < "$CLOUD/fail_at"
if [ -n "$fail_at" ]; then
  number="$(grep -n "^$$ " "$CLOUD/calls")"
  if [ "${number%%:*}" = "$fail_at" ]; then
    if [ "$when" = after ]; then trap 'exit 1' EXIT; else exit 1; fi
  fi
fi
"""

# Resources are files: $CLOUD/KIND/NAME has the text that `list` prints. Workers are folders, which are the home
# directories of the commands that run over ssh. If $CLOUD/preempt exists, the next status check finds no VM.
GCLOUD = r"""
for word in "$@"; do
  case "$word" in
    --command=*) command="${word#*=}" ;;
    --worker=*) worker="${word#*=}" ;;
    --labels=*) labels="${word#*=}" ;;
    --description=*) description="${word#*=}" ;;
    --filter=*) name="${word#--filter=name}" name="${name#=}" name="${name#\~/}" name="${name%\$}" ;;
  esac
done
ssh() {
  if [ -e "$CLOUD/preempt" ] && [[ "$command" == *worker-status* ]]; then
    rm "$CLOUD/preempt" "$CLOUD"/worker-*/container "$CLOUD"/group/*.running 2>/dev/null
    for vm in "$CLOUD"/queue/*; do
      if [[ "$vm" == *scotd-jax-* ]]; then printf 'SUSPENDED\t%s\n' "${vm##*/}" > "$vm"; fi
    done
    exit 255
  fi
  status=0
  for home in "$CLOUD"/worker-$1; do HOME="$home" bash -c "$command" || status=1; done
  exit "$status"
}
case "$*" in
  "compute tpus queued-resources list"*) cat "$CLOUD/queue/$name" 2>/dev/null || true ;;
  "compute tpus queued-resources create"*)
    [ ! -e "$CLOUD/queue/$5" ] || exit 1
    printf '%s\t%s\n' "$(cat "$CLOUD/state")" "${labels#*=}" > "$CLOUD/queue/$5" ;;
  "compute tpus queued-resources delete"*) rm "$CLOUD/queue/$5" ;;
  "compute tpus queued-resources describe"*) echo "no capacity" ;;
  "compute tpus tpu-vm describe"*) echo 2 ;;
  "compute tpus tpu-vm ssh"*) ssh "${worker/all/*}" ;;
  "compute ssh"*) ssh "${3##*-}" ;;
  "compute instance-groups managed list-instances"*)
    [ ! -e "$CLOUD/group/$5.running" ] || running=RUNNING
    case "$*" in
      *instanceStatus*) printf '%s\n' "${running:-PENDING}" "${running:-PENDING}" ;;
      *) printf '%s\n' "$5-0" "$5-1" ;;
    esac ;;
  "compute instance-groups managed list"*) [ ! -e "$CLOUD/group/$name" ] || cat "$CLOUD/group/$name" ;;
  "compute instance-groups managed create"*)
    printf '%s\t%s\n' "$5" "$description" > "$CLOUD/group/$5"
    touch "$CLOUD/group/$5.running" ;;
  "compute instance-groups managed delete"*) rm -f "$CLOUD/group/$5" "$CLOUD/group/$5.running" ;;
  "compute instance-templates list"*) cat "$CLOUD/template/$name" 2>/dev/null || true ;;
  "compute instance-templates create"*) printf '%s\t%s\n' "$4" "$description" > "$CLOUD/template/$4" ;;
  "compute instance-templates delete"*) [ ! -e "$CLOUD/group/$4" ] && rm "$CLOUD/template/$4" ;;
  "compute resource-policies list"*) cat "$CLOUD/policy/$name" 2>/dev/null || true ;;
  "compute resource-policies create"*) printf '%s\t%s\n' "$5" "$description" > "$CLOUD/policy/$5" ;;
  "compute resource-policies delete"*) [ ! -e "$CLOUD/template/$4" ] && rm "$CLOUD/policy/$4" ;;
  "auth print-access-token") echo token ;;
  "secrets versions access"*) cat "$CLOUD/secret" ;;
  *) echo "no such command: $*" >&2; exit 64 ;;
esac
"""

# One container in the home directory: its state is the file `container`, "running 0" or "exited STATUS". Lines of the
# file `ends` are the states of the next runs; without it a run succeeds. If there is a file `stop`, the action `stop`
# of another terminal ends a run.
DOCKER = r"""#!/usr/bin/env bash
cd "$HOME" || exit 1
case "$1" in
  login) cat > /dev/null ;;
  pull) echo "${*: -1}" >> pulled ;;
  inspect)
    read -r state < container || exit 1
    case "$*" in
      *Running*) if [[ "$state" == running* ]]; then echo true; else echo false; fi ;;
      *) echo "$state" ;;
    esac 2>/dev/null ;;
  rm) rm container ;;
  run)
    printf '<%s>' "${@:2}" >> log
    for word in "$@"; do
      case "$word" in --env-file=*) stat --format=%a "${word#*=}" > rights && cat "${word#*=}" > environment ;; esac
    done
    echo >> log
    state="exited 0"
    if [ -s ends ]; then
      read -r state < ends
      sed -i 1d ends
    fi
    echo "$state" > container
    if [ -e stop ]; then touch "$CLOUD/logs/stopped"; fi ;;
  logs) cat log ;;
  stop) if [[ "$(cat container)" == running* ]]; then echo "exited 143" > container; fi ;;
esac
"""


def write_programs(folder: Path, **programs: str) -> None:
    """Writes executable scripts."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def launch(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a launcher and returns its status and output."""
    return subprocess.run(
        [LAUNCH / script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
        timeout=60,
    )


# Runs the batch script at once, as Slurm does on the first node. $CLOUD/srun has the status of each run of the job.
SBATCH = r"""
for word in "$@"; do
  case "$word" in
    --nodes=*) nodes="${word#*=}" ;;
    --ntasks-per-node=*) tasks="${word#*=}" ;;
    *.sbatch) break ;;
  esac
  shift
done
script="$1"
shift
export SLURM_JOB_ID=7 SLURM_NTASKS="${TASKS:-$((nodes * tasks))}"
bash "$script" "$@"
echo $? > "$CLOUD/job_status"
"""
SRUN = r"""
printf '<%s>' "$@" > "$CLOUD/task"
exit "$(cat "$CLOUD/srun")"
"""
SQUEUE = 'cat "$CLOUD/job_state"\n'
SCONTROL = ":\n"

# The JobSet is the file $CLOUD/jobset.yaml, and its states are the lines of $CLOUD/states, of which the last one stays.
KUBECTL = r"""
case "$1" in
  config) cat "$CLOUD/context" ;;
  create) cat > "$CLOUD/jobset.yaml" ;;
  get)
    read -r state < "$CLOUD/states"
    echo "$state"
    if [ "$(wc -l < "$CLOUD/states")" -gt 1 ]; then sed -i 1d "$CLOUD/states"; fi ;;
  logs) echo "[pod/x] done" ;;
  delete)
    for word in "$@"; do case "$word" in --selector=*) selector="${word#*=}" ;; esac; done
    if grep -q "${selector/=/: }\$" "$CLOUD/jobset.yaml" 2>/dev/null; then rm "$CLOUD/jobset.yaml"; fi ;;
esac
"""


def cloud_folder(tmp_path: Path, monkeypatch, **programs: str) -> Path:
    """Puts stand-ins on PATH, and returns the folder $CLOUD of their files."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    write_programs(tmp_path / "bin", **programs)
    monkeypatch.setenv("CLOUD", str(folder))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return folder


def calls(cloud: Path) -> list[str]:
    """The calls of the programs, without process ids."""
    return [line.partition(" ")[2] for line in (cloud / "calls").read_text().splitlines()]
