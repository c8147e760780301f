"""launch/slurm.sh submits a job with one process per GPU, which is requeued after a signal stopped it.

Stand-ins for sbatch, srun, squeue and scontrol run the job at once, and fail where a test requires it.
"""

import pytest

from tests.launch.stand_ins import RECORD, SBATCH, SCONTROL, SQUEUE, SRUN, calls, cloud_folder, launch

OPTIONS = ("--nodes=2", "--image=ghcr.io#me/scotd-jax:cuda", "--mounts=/shared:/shared")
MAIN = ("--", "--config=world:seed=5", "--workdir=/shared/it's mine")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of the stand-ins' files; a job runs, and its processes succeed."""
    programs = {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}
    folder = cloud_folder(tmp_path, monkeypatch, **{name: RECORD + text for name, text in programs.items()})
    (folder / "srun").write_text("0\n")
    (folder / "job_state").write_text("RUNNING\n")
    return folder


def job_status(cluster) -> int:
    return int((cluster / "job_status").read_text())


def requeued(cluster) -> bool:
    return any(call == "scontrol requeue 7" for call in calls(cluster))


def test_dry_run_prints_the_command():
    done = launch("slurm.sh", *OPTIONS, "--partition=gpu", "--time=24:00:00", "--dry-run", *MAIN)
    command, _, rest = done.stdout.partition(" /")
    assert command == (
        "sbatch --job-name=scotd-jax '--output=scotd-jax-%j.log' --nodes=2 --ntasks-per-node=8 --gpus-per-node=8"
        " --partition=gpu --time=24:00:00"
    )
    assert rest.endswith(
        "launch/slurm.sbatch 'ghcr.io#me/scotd-jax:cuda' /shared:/shared 16 100 --config=world:seed=5"
        " '--workdir=/shared/it'\\''s mine'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*OPTIONS,), "pass --workdir=DIR"),
        ((OPTIONS[0], *MAIN), "--image: expected"),
        ((*OPTIONS, "--image=--privileged", *MAIN), "--image: expected"),
        ((*OPTIONS, "--nodes=0", *MAIN), "--nodes: expected"),
        ((*OPTIONS, "--gpus=all", *MAIN), "--gpus: expected"),
        ((*OPTIONS, "--mounts=/shared", *MAIN), "--mounts: expected"),
        ((*OPTIONS, "--partition=", *MAIN), "unknown option '--partition='"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    done = launch("slurm.sh", "--dry-run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_job_runs_one_process_per_gpu_and_expects_all_gpus(cluster):
    done = launch("slurm.sh", *OPTIONS, *MAIN)
    assert (done.returncode, job_status(cluster)) == (0, 0), done.stderr
    assert (cluster / "task").read_text() == (
        "<--gpu-bind=none><--mpi=none><--wait=300><--container-image=ghcr.io#me/scotd-jax:cuda>"
        "<--no-container-mount-home><--container-mounts=/shared:/shared><env><JAX_PLATFORMS=cuda,cpu><scotd-jax>"
        "<--multihost=auto><--devices=16><--config=world:seed=5><--workdir=/shared/it's mine>"
    )
    assert not requeued(cluster)


def test_job_with_other_tasks_than_gpus_is_refused(cluster):
    done = launch("slurm.sh", *OPTIONS, *MAIN, TASKS="2")
    assert job_status(cluster) == 2
    assert "expected 16 tasks, one for each GPU, and found 2" in done.stderr
    assert not (cluster / "task").exists()


def test_job_that_a_signal_stopped_is_requeued(cluster):
    (cluster / "srun").write_text("143")
    launch("slurm.sh", *OPTIONS, *MAIN)
    assert requeued(cluster)
    assert job_status(cluster) == 0


@pytest.mark.parametrize("status", ["1", "2", "134", "137"])
def test_job_that_failed_is_not_requeued(cluster, status):
    (cluster / "srun").write_text(status)
    launch("slurm.sh", *OPTIONS, *MAIN)
    assert not requeued(cluster)
    assert job_status(cluster) == int(status)


def test_cancelled_job_is_not_requeued(cluster):
    (cluster / "srun").write_text("143")
    (cluster / "job_state").write_text("COMPLETING\n")
    done = launch("slurm.sh", *OPTIONS, *MAIN)
    assert not requeued(cluster)
    assert job_status(cluster) == 143
    assert "not requeued: the job is COMPLETING" in done.stderr


def test_restarts_are_limited(cluster):
    (cluster / "srun").write_text("143")
    done = launch("slurm.sh", *OPTIONS, "--restarts=3", *MAIN, SLURM_RESTART_COUNT="3")
    assert not requeued(cluster)
    assert "it was restarted 3 times" in done.stderr


@pytest.mark.parametrize(("number", "program"), [(1, "sbatch"), (2, "srun"), (3, "squeue"), (4, "scontrol")])
def test_failure_of_any_program_is_a_failure(cluster, number, program):
    (cluster / "srun").write_text("143")
    (cluster / "fail_at").write_text(f"{number}\n")
    done = launch("slurm.sh", *OPTIONS, *MAIN)
    assert calls(cluster)[-1].startswith(program)
    assert (done.returncode if program == "sbatch" else job_status(cluster)) != 0
