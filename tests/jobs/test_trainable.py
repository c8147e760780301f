"""Tests of LoRA in all jobs: jobs after training load merged parameters, as of any student."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from scotd_jax import config as c
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.strict_json import read_json
from scotd_jax.workdir import Workdir
from tests.configs.lora import RANK, get_config
from tests.helpers.cli import run_cli
from tests.helpers.tolerances import FLOAT32

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunContext:
    """Runs all jobs of the config."""
    workdir = str(tmp_path_factory.mktemp("lora"))
    done = run_cli("--config=tests/configs/lora.py", f"--workdir={workdir}", fast_compilation=True)
    assert done.returncode == 0, done.stderr
    assert "trainable parameters: 1,344 of " in done.stderr
    assert "LoRA of rank 3, alpha 6" in done.stderr
    return make_context(c.from_mapping(c.Config, get_config()), Workdir(workdir))


def params(run: RunContext, student: str):
    """Returns the float32 parameters of a student by name, as later jobs load them."""
    model = c.Model(student=student)
    found = run.models.params(model, run.models.functions(model, "float32"), seed=0)
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(found, sep="/").items()}


def test_kernels_differ_from_the_base_by_matrices_of_the_rank(run):
    base, merged = params(run, "base"), params(run, "lora")
    assert base.keys() == merged.keys()
    for name, kernel in base.items():
        difference = merged[name] - kernel
        if name.endswith("kernel"):
            sizes = np.linalg.svd(difference, compute_uv=False)
            assert sizes[RANK - 1] > 100 * sizes[RANK], name
        else:
            assert not difference.any(), name


def test_checkpoints_hold_moments_of_trainable_parameters_only(run):
    sizes = {}
    for student, step in (("base", 4), ("lora", 6)):
        folder = Path(run.artefact("train", student).path, "checkpoints", str(step))
        for item in ("params", "optimizer", "frozen"):
            files = [path for path in (folder / item).rglob("*") if path.is_file()]
            sizes[student, item] = sum(path.stat().st_size for path in files)
    assert sizes["lora", "params"] < sizes["base", "params"] / 2
    assert sizes["lora", "optimizer"] < sizes["base", "optimizer"] / 2
    assert sizes["base", "frozen"] == 0 < sizes["lora", "frozen"]


def test_lora_student_is_evaluated_and_exported_as_plain_parameters(run):
    assert read_json(run.artefact("evaluate", "lora").path / "results.json")["sets"]
    artefact = run.artefact("export", "lora")
    has_torch = importlib.util.find_spec("torch") is not None  # the job then compares the export with PyTorch
    assert artefact.manifest()["counts"]["compared_with_torch"] is has_torch
    folder = artefact.path
    tensors = load_file(folder / "model.safetensors")
    assert not [name for name in tensors if "lora" in name.lower() or name.endswith((".A", ".B", ".base", ".scale"))]
    up = tensors["model.decoder.layers.0.fc1.weight"]
    expected = params(run, "lora")["layers/0/mlp/up/kernel"].T
    np.testing.assert_allclose(up, expected, rtol=0, atol=FLOAT32)
    card = (folder / "README.md").read_text()
    assert "LoRA of rank 3" in card
