"""A small chain to be planned, on a task whose files are not here, and its works."""

import dataclasses

from flax.traverse_util import flatten_dict

from scotd_jax import config as c
from scotd_jax.jobs.planning.assumptions import Assumed
from scotd_jax.jobs.planning.workloads import Speaking, works

TINY = {"hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64, "num_hidden_layers": 1}
MODEL = c.Model("opt-tiny", TINY, tokenizer="task:w")
LABELS = c.Corpus("label", questions=("w.train",), max_prompt_tokens=128, max_response_tokens=32)
SHORT = c.Sampling(max_new_tokens=8, batch_size=8, chunk=4)


def chain(model: c.Model = MODEL, topology: str = "cpu-4", **changes) -> c.Config:
    """A teacher that speaks, two students of one shape and one that is asked, on a task whose files are not here."""
    learns = c.Training(steps=600, batch_size=16, optimizer=c.Optimizer(), eval_every=300)
    corpus = c.Corpus(rationales=("said",), max_prompt_tokens=33, max_response_tokens=16)
    student, pair = c.Student(model, "n4", learns), dataclasses.replace(SHORT, n=2)
    config = c.Config(
        tasks={"w": c.Task("openbookqa", path="datasets:nowhere")},
        rationales={"said": c.ModelSource(questions=("w.train",), model=model, sampling=pair)},
        corpora={"n4": corpus, "n1": dataclasses.replace(corpus, n=1)},
        students={
            "n4": dataclasses.replace(student, dev_sets=("w.dev",), eval_sets=("w.test",)),
            "n1": dataclasses.replace(student, corpus="n1"),
        },
        evaluation=c.Evaluation(sampling=dataclasses.replace(SHORT, temperature=0.0)),
        plan=c.Plan(topology=topology, questions=1000),
    )
    return dataclasses.replace(config, **changes)


def asked(config):
    return {work.title: work for work in works(config, Assumed(config)) if isinstance(work, Speaking)}


def flat(tree):
    return flatten_dict(tree, sep="/")


def first(kind, config=None):
    config = config or chain()
    return next(work for work in works(config, Assumed(config)) if isinstance(work, kind))
