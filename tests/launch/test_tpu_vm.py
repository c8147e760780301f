"""launch/tpu_vm.sh prints the right commands in a dry run, and works with a stand-in for gcloud that fails at any call.

The stand-in has two workers. A VM of another owner must survive everything.
"""

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.launch.stand_ins import DOCKER, GCLOUD, LAUNCH, RECORD, calls, cloud_folder, launch

IMAGE = "us-docker.pkg.dev/p/images/scotd-jax:tpu"
QUEUE = ("--zone=us-east5-b", "--type=v6e-16")
COMPUTE = ("--zone=us-central1-c", "--type=tpu7x-2x2x2", "--project=p")
PLACES = {QUEUE: "v6e-16 --zone=us-east5-b", COMPUTE: "tpu7x-2x2x2 --zone=us-central1-c --project=p"}
MAIN = ("--", "--config=world:seed=5", "--workdir=gs://bucket/it's mine")
CHAIN = ("create", "setup", "run", "logs", "delete")
OWNED = "scotd-jax-run=scotd-jax-"


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """The folder of the fake resources and workers. One VM, of each kind, belongs to another owner."""
    folder = cloud_folder(tmp_path, monkeypatch, gcloud=RECORD + GCLOUD, docker=DOCKER, sudo='#!/bin/sh\nexec "$@"\n')
    for name in ("worker-0", "worker-1", "queue", "group", "template", "policy"):
        (folder / name).mkdir(parents=True)
    (folder / "state").write_text("ACTIVE\n")
    (folder / "queue" / "scotd-jax-foreign").write_text("ACTIVE\t\n")
    for kind in ("group", "template", "policy"):
        (folder / kind / "scotd-jax-foreign").write_text("scotd-jax-foreign\tours\n")
    return folder


def call(cloud: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return launch("tpu_vm.sh", "--poll=0", f"--image={IMAGE}", f"--logs={cloud / 'logs'}", *arguments)


def resources(cloud: Path) -> list[str]:
    """The resources of the fake cloud, except those of the other owner, which must exist."""
    kinds = ("queue", "group", "template", "policy")
    assert all((cloud / kind / "scotd-jax-foreign").exists() for kind in kinds), "deleted a VM of another owner"
    return [file.name for kind in kinds for file in (cloud / kind).iterdir() if file.name != "scotd-jax-foreign"]


def test_script_is_executable_and_prints_help():
    assert (LAUNCH / "tpu_vm.sh").stat().st_mode & stat.S_IXUSR
    done = launch("tpu_vm.sh", "--help")
    assert done.returncode == 0
    for action in (*CHAIN, "wait", "stop"):
        assert f"\n  {action} " in done.stdout


def dry_run(tmp_path: Path, *options: str) -> list[str]:
    """The commands of a dry run without gcloud; newlines in a command are replaced."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "cat", "dirname"):
        (tools / tool).symlink_to(shutil.which(tool))
    done = launch("tpu_vm.sh", *options, "--dry-run", f"--image={IMAGE}", *CHAIN, *MAIN, PATH=str(tools))
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0
    assert not (tmp_path / "logs").exists()
    words = subprocess.run(
        ["bash", "-c", f"gcloud() {{ printf '%s\\x1f' \"$@\"; printf '\\x1e'; }}\n{done.stdout}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [command.replace("\x1f", " ").strip() for command in words.split("\x1e") if command.strip()]


def test_dry_run_of_a_queued_resource_prints_all_commands_and_needs_no_gcloud(tmp_path):
    commands = dry_run(tmp_path, *QUEUE, "--spot", "--name=t", "--project=p")
    tail = " --zone=us-east5-b --project=p"
    listing = (
        "compute tpus queued-resources list --filter=name~/t-0123abcd$"
        f" --format=value(state.state,tpu.nodeSpec[0].node.labels.scotd-jax-run){tail}"
    )
    ssh = "compute tpus tpu-vm ssh t-0123abcd"
    assert commands[:3] == [
        listing,
        "compute tpus queued-resources create t-0123abcd --node-id=t-0123abcd --accelerator-type=v6e-16"
        f" --runtime-version=v2-alpha-tpuv6e --labels=scotd-jax-run=t-0123abcd --spot{tail}",
        listing,
    ]
    setup, start, status = commands[3:6]
    assert all(command.startswith(f"{ssh} --worker=all --command=") for command in (setup, start, status))
    assert f"sudo docker pull --quiet {IMAGE}" in setup
    assert "--multihost=auto --devices=16 --config=world:seed=5 --workdir=gs://bucket/it\\'s\\ mine" in start
    assert commands[6:] == [
        f"compute tpus tpu-vm describe t-0123abcd --format=value(networkEndpoints.len()){tail}",
        f"{ssh} --worker=0 --command=sudo docker logs scotd-jax 2>&1{tail}",
        listing,
        f"compute tpus queued-resources delete t-0123abcd --force --quiet{tail}",
    ]


def test_dry_run_of_a_newer_tpu_uses_flex_start_vms_in_one_group(tmp_path):
    commands = dry_run(tmp_path, *COMPUTE, "--max-run=24h")
    name = "scotd-jax-0123abcd"
    policy, template, group = (command for command in commands if " create " in command)
    assert policy == (
        f"compute resource-policies create workload-policy {name} --region=us-central1"
        f" --description=scotd-jax-run={name} --type=HIGH_THROUGHPUT --accelerator-topology=2x2x2 --project=p"
    )
    for option in (
        "--machine-type=tpu7x-standard-4t",
        "--image-family=ubuntu-accel-2404-amd64-tpu-tpu7x",
        "--provisioning-model=FLEX_START",
        "--max-run-duration=24h",
        "--instance-termination-action=DELETE",
        "--maintenance-policy=TERMINATE",
    ):
        assert f" {option} " in template
    assert f"--template={name} --size=2 --target-size-policy-mode=bulk" in group
    assert f"--workload-policy=projects/p/regions/us-central1/resourcePolicies/{name}" in group
    assert any("--multihost=auto --devices=16 " in command for command in commands)
    assert [command.split(f" {name}")[0] for command in commands if " delete " in command] == [
        "compute instance-groups managed delete",
        "compute instance-templates delete",
        "compute resource-policies delete",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no action"),
        (("create",), "--zone: expected"),
        ((*QUEUE, "explode"), "unknown option or action 'explode'"),
        ((*QUEUE, f"--image={IMAGE}", "run"), "run needs the arguments"),
        ((*QUEUE, f"--image={IMAGE}", "run", "--", "--workdir=runs/x"), "share no disk"),
        ((*QUEUE, "setup"), "--image: expected"),
        ((*QUEUE, "--image=x; reboot", "setup"), "--image: expected"),
        ((*QUEUE, "create", *MAIN), "run, which is not among the actions"),
        ((*QUEUE, "--type=v9-8", "create"), "--type: expected"),
        ((*QUEUE, "--secret=a;b", "create"), "--secret: expected"),
        ((*QUEUE, "--poll=soon", "create"), "--poll: expected"),
        ((*QUEUE, "--name=", "delete"), "--name: expected"),
        ((*QUEUE, "--name=--all", "delete"), "--name: expected"),
        ((*COMPUTE, "--type=tpu7x-3x1x1", "create"), "a host has 4 chips"),
        ((*COMPUTE[:2], "create"), "needs --project"),
        ((*COMPUTE, "--spot", "create"), "requested with Flex-start"),
    ],
)
def test_invalid_arguments_are_refused_before_any_command(arguments, message):
    done = launch("tpu_vm.sh", "--dry-run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("options", [QUEUE, COMPUTE], ids=["queue", "compute"])
def test_create_setup_run_logs_and_delete_on_two_workers(cloud, options):
    done = call(cloud, *options, *CHAIN, *MAIN)
    assert done.returncode == 0, done.stderr
    for worker in ("worker-0", "worker-1"):
        assert (cloud / worker / "pulled").read_text() == f"{IMAGE}\n"
        log = (cloud / worker / "log").read_text()
        assert log.endswith(
            f"<{IMAGE}><--multihost=auto><--devices=16><--config=world:seed=5><--workdir=gs://bucket/it's mine>\n"
        )
    assert [file.read_text() for file in sorted((cloud / "logs").glob("*.log"))] == [log, log]
    assert resources(cloud) == []


@pytest.mark.parametrize("options", [QUEUE, COMPUTE], ids=["queue", "compute"])
def test_token_of_a_secret_reaches_the_run_but_no_log_and_no_command_line(cloud, options):
    (cloud / "secret").write_text("hf_abc")
    done = call(cloud, *options, "--secret=hugging-face", *CHAIN, *MAIN)
    assert done.returncode == 0, done.stderr
    assert (cloud / "worker-1/environment").read_text() == "HF_TOKEN=hf_abc\n"
    assert (cloud / "worker-1/rights").read_text() == "600\n"
    arguments = (cloud / "worker-1/log").read_text()
    (name,) = re.findall("<--env-file=(.*?)>", arguments)
    assert not Path(name).exists(), "removed once the container has started"
    logs = [file.read_text() for file in (cloud / "logs").glob("*.log")]
    assert "hf_abc" not in "".join([done.stdout, done.stderr, arguments, *calls(cloud), *logs])
    assert any("--scopes=cloud-platform" in line for line in calls(cloud) if " create " in line)


def test_run_with_a_secret_that_cannot_be_read_does_not_start(cloud):
    done = call(cloud, *QUEUE, "--secret=missing", "create", "run", *MAIN)
    assert done.returncode == 1
    assert not (cloud / "worker-0/log").exists()


def test_preempted_vm_is_requested_again_and_the_same_command_resumes(cloud):
    (cloud / "preempt").touch()
    done = call(cloud, *QUEUE, *CHAIN, *MAIN)
    assert done.returncode == 0, done.stderr
    assert "preempted: restart 1 of at most 10" in done.stderr
    first, second = (cloud / "worker-1" / "log").read_text().splitlines()
    assert first == second
    names = [line.split()[5] for line in calls(cloud) if "queued-resources create" in line]
    deleted = [line.split()[5] for line in calls(cloud) if "queued-resources delete" in line]
    assert len({*names}) == 2, "the name of a suspended request is not used again"
    assert deleted == names
    assert resources(cloud) == []


def test_lost_host_of_a_group_is_requested_again(cloud):
    (cloud / "preempt").touch()
    done = call(cloud, *COMPUTE, *CHAIN, *MAIN)
    assert done.returncode == 0, done.stderr
    assert "preempted: restart 1 of at most 10" in done.stderr
    assert resources(cloud) == []


def test_worker_that_saved_its_state_restarts_on_the_same_vm(cloud):
    (cloud / "worker-0" / "ends").write_text("running 0\n")  # waits for the other worker
    (cloud / "worker-1" / "ends").write_text("exited 143\n")
    done = call(cloud, *QUEUE, "create", "run", *MAIN)
    assert done.returncode == 0, done.stderr
    assert len((cloud / "worker-0" / "log").read_text().splitlines()) == 2
    assert sum("queued-resources create" in line for line in calls(cloud)) == 1


def test_run_that_was_stopped_from_another_terminal_is_not_started_again(cloud):
    (cloud / "worker-0" / "stop").touch()
    for worker in ("worker-0", "worker-1"):
        (cloud / worker / "ends").write_text("exited 143\n")
    done = call(cloud, *QUEUE, "create", "run", *MAIN)
    assert done.returncode == 1
    assert len((cloud / "worker-0" / "log").read_text().splitlines()) == 1


def test_restarts_are_limited(cloud):
    (cloud / "worker-1" / "ends").write_text("exited 143\n" * 9)
    done = call(cloud, *QUEUE, "--retries=2", "create", "run", *MAIN)
    assert done.returncode == 1
    assert len((cloud / "worker-1" / "log").read_text().splitlines()) == 3


def test_failed_worker_stops_the_run_but_logs_are_fetched_and_the_vm_is_deleted(cloud):
    (cloud / "worker-0" / "ends").write_text("running 0\n")
    (cloud / "worker-1" / "ends").write_text("exited 2\n")
    done = call(cloud, *QUEUE, "create", "run", "setup", "logs", "delete", *MAIN)
    assert done.returncode == 1
    assert "workers ended: running 2" in done.stderr
    assert "tpu_vm.sh: setup" not in done.stderr
    assert (cloud / "worker-0" / "container").read_text() == "exited 143\n", "stopped"
    assert (cloud / "logs" / "1.log").is_file()
    assert resources(cloud) == []


def test_run_is_not_started_twice_and_can_be_stopped(cloud):
    for worker in ("worker-0", "worker-1"):
        (cloud / worker / "container").write_text("running 0\n")
    done = call(cloud, *QUEUE, "create", "run", *MAIN)
    assert done.returncode == 1
    assert "a run is in progress" in done.stderr
    assert call(cloud, *QUEUE, "stop").returncode == 0
    assert (cloud / "worker-1" / "container").read_text() == "exited 143\n"
    done = call(cloud, *QUEUE, "wait")
    assert done.returncode == 1
    assert "workers ended: 143 143" in done.stderr


def test_failed_request_is_reported_and_deleted(cloud):
    (cloud / "state").write_text("FAILED\n")
    done = call(cloud, *QUEUE, "create", "setup")
    assert done.returncode == 1
    assert "no capacity" in done.stderr
    assert not (cloud / "worker-0" / "pulled").exists()
    assert resources(cloud) == []


@pytest.mark.parametrize("options", [QUEUE, COMPUTE], ids=["queue", "compute"])
@pytest.mark.parametrize("action", ["create", "delete"])
def test_vm_of_another_owner_is_never_deleted(cloud, options, action):
    (cloud / "logs").mkdir()
    (cloud / "logs" / "vm").write_text(f"scotd-jax-foreign\n{PLACES[options]}\n")  # a record that is wrong
    done = call(cloud, *options, action)
    assert done.returncode == 1
    assert "scotd-jax-foreign was not created by this run" in done.stderr
    assert not any(" delete " in line for line in calls(cloud))
    assert resources(cloud) == []


@pytest.mark.parametrize("other", ["--zone=us-east5-a", "--type=v6e-8", "--project=q"])
def test_vm_of_other_options_is_not_forgotten(cloud, other):
    assert call(cloud, *QUEUE, "create").returncode == 0
    for action in ("create", "delete"):
        done = call(cloud, *QUEUE, other, action)
        assert done.returncode == 1
        assert "belongs to 'v6e-16 --zone=us-east5-b', not to" in done.stderr
    assert len(resources(cloud)) == 1


def test_without_a_record_nothing_is_deleted(cloud):
    done = call(cloud, *QUEUE, "delete")
    assert done.returncode == 1
    assert "has no name of one that was created from here" in done.stderr
    assert not (cloud / "calls").exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [QUEUE, COMPUTE], ids=["queue", "compute"])
def test_failure_of_any_call_leaves_nothing_that_a_second_delete_does_not_find(cloud, options):
    call(cloud, *options, *CHAIN, *MAIN)
    chain = calls(cloud)
    ssh = ("tpu-vm ssh", "compute ssh", "auth")  # the same steps for both kinds, so one is enough
    steps = [(i, "") for i, step in enumerate(chain, 1) if options is QUEUE or not any(word in step for word in ssh)]
    steps += [(i, " after") for i, step in enumerate(chain, 1) if " create " in step or " delete " in step]
    for number, when in steps:
        shutil.rmtree(cloud / "logs")
        (cloud / "calls").unlink()
        (cloud / "fail_at").write_text(f"{number}{when}\n")
        done = call(cloud, *options, *CHAIN, *MAIN)
        step = f"{chain[number - 1]}: fails {when}\n{done.stderr}"
        assert done.returncode in (0, 1), step
        assert done.returncode == 1 or any(word in step for word in (*ssh, "list-instances")), step
        if resources(cloud):
            assert call(cloud, *options, "delete").returncode == 0, step
        assert resources(cloud) == [], step
