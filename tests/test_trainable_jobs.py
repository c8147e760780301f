"""LoRA from the config to the exported folder: later jobs see plain parameters, and the base is still in them."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from scotd_jax import config as c
from scotd_jax.jobs.build import build
from scotd_jax.jobs.evaluate import evaluate
from scotd_jax.jobs.export import export
from scotd_jax.jobs.run import Run
from scotd_jax.jobs.sample import sample
from scotd_jax.jobs.train import train
from scotd_jax.workdir import Workdir, read_json
from tests.tolerances import FLOAT32

SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64}
RANK = 3


def config() -> c.Config:
    optimizer = c.Optimizer(learning_rate=1e-2, warmup_steps=2, moments="bfloat16")
    whole = c.Training(steps=4, batch_size=8, optimizer=optimizer)
    base = c.Student(
        model=c.Model(architecture="opt-tiny", shape=SHAPE, tokenizer="task:world"), corpus="gold", training=whole
    )
    thin = dataclasses.replace(
        base,
        model=c.Model(student="base"),
        training=dataclasses.replace(whole, steps=6, lora=c.LoRA(rank=RANK, alpha=6.0)),
        dev=("world.dev",),
        sets=("world.test",),
        export=True,
    )
    small = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 16, "statements": 4}
    return c.Config(
        tasks={"world": c.Task(kind="world", options=small)},
        rationales={"gold": c.Rationales(source="task", questions=("world.gold",))},
        corpora={"gold": c.Corpus(rationales=("gold",), decontaminate=0)},
        students={"base": base, "thin": thin},
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0, max_new_tokens=8, batch_size=4)),
        mesh=c.Mesh(data=8),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """All jobs of the config, done."""
    run = Run(config(), Workdir(str(tmp_path_factory.mktemp("lora"))))
    with jax.debug_key_reuse(False), jax.numpy_dtype_promotion("standard"):
        sample(run, "gold")
        build(run, "gold")
        for student in ("base", "thin"):
            train(run, student)
        evaluate(run, "thin")
        export(run, "thin")
    return run


def params(run: Run, student: str):
    model = c.Model(student=student)
    found = run.params(model, run.model(model, "float32"), seed=0)
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(found, sep="/").items()}


def test_a_student_is_its_base_and_products_of_the_rank(run):
    base, thin = params(run, "base"), params(run, "thin")
    assert base.keys() == thin.keys()
    for name, kernel in base.items():
        difference = thin[name] - kernel
        if name.endswith("kernel"):
            sizes = np.linalg.svd(difference, compute_uv=False)
            assert sizes[RANK - 1] > 100 * sizes[RANK], name
        else:
            assert not difference.any(), name


def test_the_optimizer_on_disk_is_thin(run):
    sizes = {}
    for student in ("base", "thin"):
        folder = run.artefact("train", student).path / "checkpoints"
        [last] = [path for path in folder.iterdir() if path.name == {"base": "4", "thin": "6"}[student]]
        for item in ("params", "optimizer", "frozen"):
            files = [path for path in (last / item).rglob("*") if path.is_file()]
            sizes[student, item] = sum(path.stat().length for path in files)
    assert sizes["thin", "params"] < sizes["base", "params"] / 2
    assert sizes["thin", "optimizer"] < sizes["base", "optimizer"] / 2
    assert sizes["base", "frozen"] == 0 < sizes["thin", "frozen"]


def test_it_is_evaluated_and_exported_as_any_other(run):
    assert read_json(run.artefact("evaluate", "thin").path / "results.json")["sets"]
    folder = run.artefact("export", "thin").path  # where torch is installed, the job has compared it with PyTorch
    tensors = load_file(folder / "model.safetensors")
    assert not [name for name in tensors if "lora" in name.lower() or name.endswith((".A", ".B", ".base", ".scale"))]
    up = tensors["model.decoder.layers.0.fc1.weight"]
    expected = params(run, "thin")["layers/0/mlp/up/kernel"].T
    np.testing.assert_allclose(up, expected, rtol=0, atol=FLOAT32)
    card = (folder / "README.md").read_text()
    assert "LoRA of rank 3" in card
