"""Tests of the whole chain from the command line: artefacts, a repeated command, and changed configs."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from tests.helpers.cli import ROOT, run_cli
from tests.helpers.manifests import edit_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Runs the smallest chain of the embedded world and returns its work directory."""
    workdir = tmp_path_factory.mktemp("world")
    # Users often pass a relative path.
    flags = "--config=configs/world.py:runlocal", f"--workdir={os.path.relpath(workdir, ROOT)}"
    # A new interpreter, so that warnings during imports are found too.
    done = run_cli(*flags, new_interpreter=True, fast_compilation=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr, "no warning is printed"
    return workdir


def test_every_artefact_is_complete(world):
    manifests = sorted(world.glob("*/*/manifest.json"))
    kinds = {path.parent.parent.name for path in manifests}
    assert kinds == {"rationales", "corpora", "students", "evaluations", "exports"}
    for path in manifests:
        manifest = json.loads(path.read_text())
        assert manifest["complete"] is True, path
        assert manifest["identity"], path
        assert manifest["versions"]["jax"], path


def test_every_response_is_in_one_ledger_bin(world):
    for path in world.glob("corpora/n30_*/ledger.json"):
        ledger = json.loads(path.read_text())
        assert sum(ledger["bins"].values()) == ledger["total"] == 16 * 30


def test_every_prediction_is_stored(world):
    for split in ("test", "contrast", "unseen", "longer"):
        path = world / "evaluations" / "n30_opt" / f"world.{split}.responses.jsonl"
        assert len(path.read_text().splitlines()) == 8
    results = json.loads((world / "evaluations/n30_opt/results.json").read_text())
    assert results["contrast"]["n"] == 8


def test_export_is_compared_with_torch_if_installed(world):
    counts = json.loads((world / "exports/n30_opt/manifest.json").read_text())["counts"]
    assert counts["compared_with_torch"] is (importlib.util.find_spec("torch") is not None)
    assert (world / "exports/n30_t5/model.safetensors").exists()


def test_report_is_self_contained(world):
    page = (world / "report/index.html").read_text()
    assert "SCoTD, N = 30" in page
    assert 'src="http' not in page
    assert "<link" not in page


def test_repeated_command_skips_everything(world):
    before = {path: path.read_bytes() for path in world.glob("*/*/manifest.json")}
    again = run_cli("--config=configs/world.py:runlocal", f"--workdir={world}")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("already complete") == len(before)
    assert {path: path.read_bytes() for path in world.glob("*/*/manifest.json")} == before


def test_other_config_is_refused_in_the_same_work_directory(world):
    other = run_cli(
        "--config=configs/world.py:runlocal",
        f"--workdir={world}",
        "--jobs=sample",
        "--config.rationales.sampled.sampling.n=5",
    )
    assert other.returncode == 2
    assert "spec.sampling.n was 30 and is now 5" in other.stderr
    assert "--overwrite=sample:sampled" in other.stderr
    assert "Traceback" not in other.stderr


def test_changed_corpus_invalidates_its_student(world):
    """After its corpus changes, a student is not skipped as complete."""
    manifest = world / "rationales/sampled/manifest.json"
    original = manifest.read_text()
    edit_manifest(manifest.parent, digest="0" * 16)
    other = run_cli("--config=configs/world.py:runlocal", f"--workdir={world}", "--jobs=build")
    manifest.write_text(original)
    assert other.returncode == 2
    assert "made by another configuration: rationales was" in other.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/world.py:runlocl"], "unknown setting 'runlocl'; did you mean 'runlocal'?"),
        (["--config=configs/wrld.py"], "no config file at 'configs/wrld.py'"),
        (["--config=configs/world.py", "--config.sed=1"], "no such key"),
        (["--config=configs/world.py", "--jobs=trian"], "did you mean 'train'?"),
        (["--config=configs/world.py", "--overwrite=train:teachr"], "did you mean 'teacher'?"),
        (["--config=configs/world.py", "--config.mesh.fsdp=two"], "invalid literal"),
        (["--config=configs/world.py", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_invalid_commands_are_refused_with_advice(flags, message, tmp_path):
    done = run_cli(*flags, f"--workdir={tmp_path}/w", timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "w").exists(), "nothing is written before the flags are checked"
