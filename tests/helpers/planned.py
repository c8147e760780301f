"""A small config whose task has no files, and its workloads, for tests of the plan job."""

import dataclasses

from flax.traverse_util import flatten_dict

from scotd_jax import config as c
from scotd_jax.distributed import topologies
from scotd_jax.distributed.topologies import parse_topology
from scotd_jax.jobs.planning.analysis import Analyzer
from scotd_jax.jobs.planning.assumptions import Assumptions
from scotd_jax.jobs.planning.chain_workloads import chain_workloads
from scotd_jax.jobs.planning.workloads import GenerationWorkload

TINY = {"hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64, "num_hidden_layers": 1}
MODEL = c.Model("opt-tiny", TINY, tokenizer="task:w")
LABELS = c.Corpus("label", questions=("w.train",), max_prompt_tokens=128, max_response_tokens=32)
SHORT_SAMPLING = c.Sampling(max_new_tokens=8, batch_size=8, chunk=4)


def small_config(model: c.Model = MODEL, topology: str = "cpu-4", **changes) -> c.Config:
    """Returns a config with a teacher and two students of the same shape, one of which is evaluated."""
    training = c.Training(steps=600, batch_size=16, optimizer=c.Optimizer(), eval_every=300)
    corpus = c.Corpus(rationales=("teacher",), max_prompt_tokens=33, max_response_tokens=16)
    student, two_samples = c.Student(model, "n4", training), dataclasses.replace(SHORT_SAMPLING, n=2)
    config = c.Config(
        tasks={"w": c.Task("openbookqa", path="datasets:nowhere")},
        rationales={"teacher": c.ModelSource(questions=("w.train",), model=model, sampling=two_samples)},
        corpora={"n4": corpus, "n1": dataclasses.replace(corpus, n=1)},
        students={
            "n4": dataclasses.replace(student, dev_sets=("w.dev",), eval_sets=("w.test",)),
            "n1": dataclasses.replace(student, corpus="n1"),
        },
        evaluation=c.Evaluation(sampling=dataclasses.replace(SHORT_SAMPLING, temperature=0.0)),
        plan=c.Plan(topology=topology, questions=1000),
    )
    return dataclasses.replace(config, **changes)


def workloads_of(config):
    """Returns all workloads of a config."""
    return chain_workloads(config, Assumptions(config))


def first_workload(kind, config=None):
    """Returns the first workload of a class, by default of `small_config()`."""
    return next(workload for workload in workloads_of(config or small_config()) if isinstance(workload, kind))


def generation_by_title(config):
    """Returns the generation workloads of a config by title."""
    return {workload.title: workload for workload in workloads_of(config) if isinstance(workload, GenerationWorkload)}


def make_analyzer(topology, max_layers=0):
    """Returns a silent analyzer that compiles at full depth by default."""
    return Analyzer(parse_topology(topology), max_layers, log=str)


def use_estimates(monkeypatch):
    """Estimates the programs of GPUs even where JAX's CUDA plugin is installed."""
    monkeypatch.setattr(topologies, "_CUDA_PLUGINS", ())


def with_settings(workload, **changes):
    """Returns a training workload with other training settings."""
    return dataclasses.replace(workload, settings=dataclasses.replace(workload.settings, **changes))


def flatten(tree):
    return flatten_dict(tree, sep="/")
