"""launch/tpu_vm.sh prints the right commands in a dry run, and works with a fake gcloud.

The fake has two workers. Each is a folder, which is the home directory of the commands that run over ssh.
"""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "tpu_vm.sh"
BASE = ("--zone=us-east5-b",)
MAIN = ("--", "--config=configs/world.py:seed=5", "--workdir=gs://bucket/it's mine")

GCLOUD = r"""#!/usr/bin/env bash
set -euo pipefail
call="$*"
echo "${call%%$'\n'*}" >> "$CLOUD/calls"
for word in "$@"; do
  case "$word" in --command=*) command="${word#*=}" ;; --worker=*) worker="${word#*=}" ;; esac
done
case "$3 $4" in
  "queued-resources describe")
    if [ -e "$CLOUD/waited" ]; then cat "$CLOUD/state"; else echo WAITING_FOR_RESOURCES; touch "$CLOUD/waited"; fi ;;
  "tpu-vm describe") echo 2 ;;
  "tpu-vm ssh")
    status=0
    for home in "$CLOUD"/worker-0 "$CLOUD"/worker-1; do
      HOME="$home" bash -c "$command" || status=1
    done
    exit "$status" ;;
  "tpu-vm scp")
    if [ "$worker" = all ]; then cp "$5" "$CLOUD/worker-0/"; cp "$5" "$CLOUD/worker-1/"
    else cp "$CLOUD/worker-$worker/${5#*:}" "$6"; fi ;;
esac
"""

UV = r"""#!/usr/bin/env bash
set -euo pipefail
if [ "$1" = venv ]; then
  for target in "$@"; do :; done
  mkdir -p "$target/bin"
  cp "$CLOUD/python" "$target/bin/python"
else
  echo "$*" > "$HOME/installed"
fi
"""

# Files in the home directory set its duration (`takes`, in seconds) and its exit status (`status`).
PYTHON = r"""#!/usr/bin/env bash
printf '<%s>' "$(basename "$PWD")" "$@"
echo
sleep "$(cat "$HOME/takes" 2>/dev/null || echo 0)"
exit "$(cat "$HOME/status" 2>/dev/null || echo 0)"
"""


def launch(*arguments: str, script: Path = SCRIPT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
        timeout=60,
    )


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """The folder of the fake workers; fakes of gcloud and uv are on PATH, and the script is in `../repo`."""
    for worker in ("worker-0", "worker-1"):
        (tmp_path / "cloud" / worker).mkdir(parents=True)
    (tmp_path / "cloud" / "state").write_text("ACTIVE\n")
    (tmp_path / "bin").mkdir()
    for path, text in (("bin/gcloud", GCLOUD), ("bin/uv", UV), ("cloud/python", PYTHON)):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    (tmp_path / "repo" / "launch").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "repo" / "launch" / "tpu_vm.sh")
    git = ["git", "-C", str(tmp_path / "repo"), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "source"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setenv("CLOUD", str(tmp_path / "cloud"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "cloud"


def call(cloud: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = (*BASE, "--poll=0", f"--logs={cloud / 'logs'}")
    return launch(*options, *arguments, script=cloud.parent / "repo" / "launch" / "tpu_vm.sh")


def test_script_is_executable_and_prints_help():
    assert SCRIPT.stat().st_mode & stat.S_IXUSR
    done = launch("--help")
    assert done.returncode == 0
    for action in ("create", "setup", "run", "wait", "stop", "logs", "delete"):
        assert f"\n  {action} " in done.stdout


def test_dry_run_prints_all_commands_and_needs_no_gcloud(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "mktemp", "rm", "cat", "dirname"):
        (tools / tool).symlink_to(shutil.which(tool))
    arguments = (*BASE, "--type=v6e-16", "--spot", "--name=t", "--project=p", "--dry-run")
    done = launch(*arguments, "create", "setup", "run", "logs", "delete", *MAIN, PATH=str(tools))
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if line.startswith("gcloud")]
    tail = " --zone=us-east5-b --project=p"
    assert commands[0] == (
        "gcloud compute tpus queued-resources create t --node-id=t --accelerator-type=v6e-16 --spot"
        f" --runtime-version=v2-alpha-tpuv6e{tail}"
    )
    assert commands[-1] == f"gcloud compute tpus queued-resources delete t --force --quiet{tail}"
    assert [" ".join(c.split()[3:5]) for c in commands[1:-1]] == [
        "queued-resources describe",
        "tpu-vm scp",
        "tpu-vm ssh",
        "tpu-vm ssh",
        "tpu-vm ssh",
        "tpu-vm describe",
        "tpu-vm scp",
    ]
    assert "-m scotd_jax.main --multihost=auto --config=configs/world.py:seed=5" in done.stdout
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_direct_creation_uses_no_queue():
    done = launch(*BASE, "--direct", "--type=v5litepod-8", "--dry-run", "create", "delete")
    assert done.stdout.splitlines() == [
        "gcloud compute tpus tpu-vm create scotd-jax --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite"
        " --zone=us-east5-b",
        "gcloud compute tpus tpu-vm delete scotd-jax --quiet --zone=us-east5-b",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no action"),
        (("create",), "--zone is missing"),
        ((*BASE, "explode"), "unknown option or action 'explode'"),
        ((*BASE, "run"), "run needs the arguments"),
        ((*BASE, "run", "--", "--workdir=runs/x"), "share no disk"),
        ((*BASE, "create", *MAIN), "run, which is not among the actions"),
        ((*BASE, "--type=v9-8", "create"), "pass --runtime"),
        ((*BASE, "--poll=soon", "create"), "whole seconds"),
    ],
)
def test_invalid_arguments_are_refused_before_any_command(arguments, message):
    done = launch("--dry-run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_create_setup_run_logs_and_delete_on_two_workers(cloud):
    done = call(cloud, "create", "setup", "run", "logs", "delete", *MAIN)
    assert done.returncode == 0, done.stderr
    assert "scotd-jax is WAITING_FOR_RESOURCES" in done.stderr
    for worker in ("worker-0", "worker-1"):
        assert (cloud / worker / "scotd_jax" / "launch" / "tpu_vm.sh").is_file()
        assert (cloud / worker / "installed").read_text().endswith("-c constraints.txt -e .[tpu]\n")
        assert (cloud / "logs" / f"{worker}.log").read_text() == (
            "<scotd_jax><-m><scotd_jax.main><--multihost=auto><--config=configs/world.py:seed=5>"
            "<--workdir=gs://bucket/it's mine>\n"
        )
    assert (cloud / "calls").read_text().splitlines()[-1].startswith("compute tpus queued-resources delete scotd-jax")


def test_failed_worker_stops_the_run_but_logs_are_fetched_and_the_vm_is_deleted(cloud):
    call(cloud, "setup")
    (cloud / "worker-0" / "takes").write_text("300")  # seconds; like a worker that waits for the failed one
    (cloud / "worker-1" / "status").write_text("3")
    done = call(cloud, "run", "setup", "logs", "delete", *MAIN)
    assert done.returncode == 1
    assert "worker-status=3" in done.stderr
    assert "run failed" in done.stderr
    assert "tpu_vm.sh: setup" not in done.stderr
    assert (cloud / "logs" / "worker-1.log").is_file()
    assert "queued-resources delete" in (cloud / "calls").read_text().splitlines()[-1]
    assert ends_soon(cloud / "worker-0")


@pytest.mark.slow
def test_run_is_not_started_twice_and_can_be_stopped(cloud):
    call(cloud, "setup")
    for worker in ("worker-0", "worker-1"):
        (cloud / worker / "takes").write_text("300")
        subprocess.run(["bash", "-c", launch_only(cloud)], env={**os.environ, "HOME": str(cloud / worker)}, check=True)
        assert alive(cloud / worker)
    done = call(cloud, "run", *MAIN)
    assert done.returncode == 1
    assert "a run is in progress" in done.stderr
    assert call(cloud, "stop").returncode == 0
    assert ends_soon(cloud / "worker-0")
    assert ends_soon(cloud / "worker-1")
    lost = call(cloud, "wait")
    assert lost.returncode == 1
    assert "worker-status=lost" in lost.stderr


def test_failed_request_is_reported(cloud):
    (cloud / "state").write_text("FAILED\n")
    done = call(cloud, "create", "setup")
    assert done.returncode == 1
    assert "is FAILED; delete it" in done.stderr
    assert not (cloud / "worker-0" / "scotd_jax").exists()


def launch_only(cloud: Path) -> str:
    """Returns the remote command that starts a run, as the script sends it."""
    dry = call(cloud, "--dry-run", "run", *MAIN).stdout
    command = dry[dry.index("'--command=") : dry.index(" --zone=")]
    words = subprocess.run(["bash", "-c", f"printf %s {command}"], capture_output=True, text=True, check=True).stdout
    return words.removeprefix("--command=")


def alive(worker: Path) -> bool:
    """Whether the process group of the worker's run has a process that is not a zombie."""
    group = (worker / "scotd_jax-run" / "pid").read_text().strip()
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(line.split()[0] == group and "Z" not in line.split()[1] for line in listed.splitlines())


def ends_soon(worker: Path) -> bool:
    """Whether the worker's run ends within ten seconds."""
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(worker)
