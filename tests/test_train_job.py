"""The train job holds what updates need, and nothing beside it."""

import dataclasses
import weakref

import jax
import pytest

from scotd_jax import config as c
from scotd_jax.jobs import train
from scotd_jax.jobs.build import build
from scotd_jax.jobs.run import Run
from tests.built import make_run, question, responses, write_questions

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


def watched(monkeypatch, name: str, dtype: str) -> list[weakref.ref]:
    """The arrays of a dtype that this method of Run will have returned."""
    method, found = getattr(Run, name), []

    def call(*arguments):
        tree = method(*arguments)
        found.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(tree) if leaf.dtype == dtype)
        return tree

    monkeypatch.setattr(Run, name, call)
    return found


def test_neither_what_it_starts_from_nor_who_answers_dev_questions_is_held_during_updates(tmp_path, monkeypatch):
    questions = [question(i) for i in range(16)]
    write_questions(tmp_path / "t", train=questions, dev=[question(i, "dev") for i in range(4)])
    optimizer = c.Optimizer(warmup_steps=1)
    training = c.Training(steps=4, optimizer=optimizer, batch_size=8, eval_every=2, log_every=1, check=False)
    run = make_run(
        tmp_path, c.Corpus(decontaminate=0), {"said": responses(questions, 2)}, training=training, dev=("t.dev",)
    )
    short = c.Sampling(temperature=0.0, max_new_tokens=4)
    run.config = dataclasses.replace(run.config, evaluation=c.Evaluation(sampling=short))
    build(run, "c")
    # A speaker's embeddings are those of the state; its kernels are its own.
    dtypes = {"params": "float32", "on_own_devices": "bfloat16"}
    made = {name: watched(monkeypatch, name, dtype) for name, dtype in dtypes.items()}
    alive = []

    def note(values):
        alive.append({name: sum(leaf() is not None for leaf in leaves) for name, leaves in made.items()})
        return ""

    monkeypatch.setattr(train, "note", note)
    train.train(run, "s")
    assert all(made.values())
    assert alive == [{"params": 0, "on_own_devices": 0}] * 6  # four updates, twice dev
