"""Damaged input on the command line: the message names file and record, the exit status is 2, and nothing is lost."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.helpers.cli import run_cli
from tests.helpers.manifests import edit_manifest

pytestmark = pytest.mark.slow

CONFIG = "--config=tests/configs/small_chain.py"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("built")
    done = run_cli(CONFIG, f"--workdir={workdir}", "--jobs=sample,build", fast_compilation=True)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture
def workdir(built, tmp_path) -> Path:
    """A copy of the work directory to damage."""
    return Path(shutil.copytree(built, tmp_path / "w"))


def refused(workdir: Path, *flags: str) -> str:
    """Runs a command, checks that its exit status is 2, and returns its error message."""
    before = {p: p.read_bytes() for p in workdir.glob("rationales/*/*.json*")}
    done = run_cli(CONFIG, f"--workdir={workdir}", *flags, fast_compilation=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert {p: p.read_bytes() for p in before} == before, "responses are unchanged"
    return next(line for line in done.stderr.splitlines() if line.startswith("error: "))


def shard(workdir: Path) -> Path:
    return sorted(workdir.glob("corpora/gold/*.tfrecord"))[1]


def test_truncated_tfrecord_is_refused(workdir):
    path = shard(workdir)
    path.write_bytes(path.read_bytes()[:-7])
    message = refused(workdir, "--jobs=train")
    assert re.search(rf"{path.name}: has [\d,]+ bytes instead of [\d,]+.*--overwrite=build:gold", message)


def test_flipped_byte_is_refused(workdir):
    path = shard(workdir)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = refused(workdir, "--jobs=train")
    assert re.search(rf"{path.name}: has other content than the job wrote.*--overwrite=build:gold", message)


def test_edited_response_file_is_refused(workdir):
    path = sorted(workdir.glob("rationales/gold/responses-*.jsonl"))[0]
    path.write_text(path.read_text().replace('"correct": true', '"correct": null', 1))
    message = refused(workdir, "--jobs=build", "--overwrite=build")
    assert re.search(rf"{path.name}: has other content than the job wrote.*--overwrite=sample:gold", message)


def test_corpus_that_is_empty_after_filtering_is_refused(workdir):
    message = refused(workdir, "--jobs=build", "--overwrite=build", "--config.corpora.gold.max_response_tokens=3")
    assert "corpora/gold" in message
    assert "24 too_long" in message


def test_corpus_with_sequences_longer_than_the_position_table_is_refused(workdir):
    message = refused(workdir, "--jobs=train", "--config.students.student.model.overrides.max_position_embeddings=64")
    assert "config.students.student" in message
    assert "exceed the model's 64 positions" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.optimizer.warmup_steps=500", "optimizer.warmup_steps is 500, but training lasts"),
        ("training.freeze=('nothing',)", "training.freeze: 'nothing' matches no parameter"),
    ],
)
def test_invalid_training_settings_are_refused_before_any_work(tmp_path, override, message):
    assert f"config.students.student: {message}" in refused(tmp_path, f"--config.students.student.{override}")
    assert not (tmp_path / "rationales").exists()


@pytest.mark.parametrize(
    "mistake", ["--overwrite=build,build:gould", "--config.mesh.data=3", "--config.students.student.training.steps=1"]
)
def test_overwrite_removes_nothing_if_the_command_is_refused(workdir, mistake):
    before = sorted(workdir.rglob("*"))
    refused(workdir, *([] if "overwrite" in mistake else ["--overwrite=build"]), mistake)
    assert sorted(workdir.rglob("*")) == before


def test_missing_artefact_is_refused_with_the_job_to_run(tmp_path):
    message = refused(tmp_path, "--jobs=build")
    assert "rationales/gold: not complete; run it first: --jobs=sample" in message


def test_checkpoint_of_another_model_is_refused(workdir):
    flags = "--jobs=train", "--config.students.student.training.steps=4"
    done = run_cli(CONFIG, f"--workdir={workdir}", *flags, fast_compilation=True)
    assert done.returncode == 0, done.stderr
    # The manifest would already refuse the change; here only the checkpoint can.
    student = workdir / "students/student"
    identity = json.loads((student / "manifest.json").read_text())["identity"]
    identity["spec"]["training"]["steps"] = 8
    for model in (identity["spec"]["model"], identity["model"]["config"]):
        model["overrides"]["ffn_dim"] = 128
    edit_manifest(student, complete=False, identity=identity)
    message = refused(
        workdir,
        "--jobs=train",
        "--config.students.student.training.steps=8",
        "--config.students.student.model.overrides.ffn_dim=128",
    )
    assert "checkpoints" in message
    assert "layers/0/mlp" in message
    assert "64" in message
    assert "128" in message
