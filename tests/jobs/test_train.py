"""Tests of the train job: its identity, dev evaluation and memory during updates."""

import dataclasses
import re
import time
import weakref

import jax
import pytest

from scotd_jax import config as c
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.jobs import train
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.model_loading import ModelLoader
from scotd_jax.jobs.preparation import manifests
from scotd_jax.jobs.report_parts.run_costs import run_costs
from scotd_jax.training.metrics import read_metrics
from tests.helpers.corpora import MODEL, folder, make_run, question, responses, write_questions

pytestmark = pytest.mark.usefixtures("fast_compilation")


def built(folder, **changes) -> RunContext:
    """Returns a run whose corpus is built and whose student "s" has a dev set."""
    questions = [question(i) for i in range(16)]
    write_questions(folder / "t", train=questions, dev=[question(i, "dev") for i in range(4)])
    fields = {"steps": 4, "batch_size": 8, "eval_every": 2, "log_every": 1, "startup_check": False} | changes
    training = c.Training(optimizer=c.Optimizer(warmup_steps=1), **fields)
    run = make_run(
        folder, c.Corpus(decontaminate=0), {"sampled": responses(questions, 2)}, training=training, dev_sets=("t.dev",)
    )
    short = c.Sampling(temperature=0.0, max_new_tokens=4)
    run = make_context(dataclasses.replace(run.config, evaluation=c.Evaluation(sampling=short)), run.workdir)
    build(run, "c")
    return run


def changed(run: RunContext, **changes) -> RunContext:
    """Returns the run with other training settings."""
    student = run.config.students["s"]
    student = dataclasses.replace(student, training=dataclasses.replace(student.training, **changes))
    return make_context(dataclasses.replace(run.config, students={"s": student}), run.workdir)


def watched(monkeypatch, name: str, dtype: str) -> list[weakref.ref]:
    """Collects weak references to the arrays of one dtype that a method of ModelLoader returns."""
    method, found = getattr(ModelLoader, name), []

    def call(*arguments, **options):
        tree = method(*arguments, **options)
        found.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(tree) if leaf.dtype == dtype)
        return tree

    monkeypatch.setattr(ModelLoader, name, call)
    return found


@pytest.mark.slow
def test_initial_and_dev_parameters_are_freed_during_training(tmp_path, monkeypatch):
    run = built(tmp_path)
    # Dev evaluation shares the float32 embeddings of the train state, and has bfloat16 copies of the kernels.
    dtypes = {"params": "float32", "to_sampling_devices": "bfloat16"}
    made = {name: watched(monkeypatch, name, dtype) for name, dtype in dtypes.items()}
    alive = []

    def note(values):
        alive.append({name: sum(leaf() is not None for leaf in leaves) for name, leaves in made.items()})
        return ""

    monkeypatch.setattr(train, "progress_note", note)
    train.train(run, "s")
    assert all(made.values())
    assert alive == [{"params": 0, "to_sampling_devices": 0}] * 6  # four updates and two dev evaluations


def test_rate_of_a_resumed_training_counts_its_own_updates(tmp_path, monkeypatch, capsys):
    run = built(tmp_path, steps=1000)
    monkeypatch.setattr(train, "latest_step", lambda folder: 900)

    def resume(*arguments, log, **options):
        time.sleep(0.1)
        log(901, {"loss": 1.0})
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_loop", resume)
    with pytest.raises(KeyboardInterrupt):
        train.train(run, "s")
    [rate] = re.findall(r"s: 901 of 1000 updates in .* \((.*), loss 1.000\), interrupted", capsys.readouterr().err)
    assert "s per update" in rate or float(rate.removesuffix("/s")) <= 10


@pytest.mark.slow
def test_settings_that_change_only_rounding_may_change(tmp_path, capsys):
    run = built(tmp_path)
    train.train(run, "s")
    others = {
        "log_every": 7,
        "save_every": 3,
        "max_to_keep": 1,
        "startup_check": True,
        "microbatches": 2,
        "remat": "full",
    }
    train.train(changed(run, **others, scan_layers="on"), "s")
    assert "already complete" in capsys.readouterr().err
    for name, value in (("balance_window", 1), ("group_size", 2), ("eval_every", 4)):
        with pytest.raises(InputError, match=f"made by another configuration: spec.training.{name}"):
            train.train(changed(run, **{name: value}), "s")
    check_costs(run)


def check_costs(run: RunContext) -> None:
    """Checks the FLOPs of a trained student and of its responses, which are known only if a local model made them."""
    costs = run_costs(run)["s"]
    lines = read_metrics(run.artefact("train", "s").path / "metrics.jsonl")
    assert costs["training_flops"] == sum(line.get("flops", 0.0) for line in lines) > 0
    assert "sampling_flops" not in costs
    sampling = []
    for n in (0, 1):
        corpora = {"c": dataclasses.replace(run.config.corpora["c"], n=n)}
        sources = {"sampled": c.ModelSource(("t.train",), MODEL)}
        config = dataclasses.replace(run.config, rationales=sources, corpora=corpora)
        sampling.append(run_costs(make_context(config, run.workdir))["s"]["sampling_flops"])
    assert sampling[0] > sampling[1] > 0  # two responses per question, or the first one


@pytest.mark.slow
def test_microbatches_are_part_of_the_identity_with_dropout(tmp_path):
    run = built(tmp_path, dropout=0.1, steps=2)
    train.train(run, "s")
    with pytest.raises(
        InputError, match=r"made by another configuration: spec.training.microbatches was 1 and is now 2"
    ):
        train.train(changed(run, microbatches=2), "s")


def test_every_dev_set_is_evaluated(tmp_path):
    run = built(tmp_path)
    task = run.config.tasks["t"]
    (tmp_path / "u").mkdir()
    many = [dataclasses.replace(question(i, "dev"), id=f"u/dev/{i}", task="u") for i in range(9)]
    write_questions(tmp_path / "u", train=[], dev=many)
    tasks = {"t": task, "u": dataclasses.replace(task, path=str(tmp_path / "u"))}
    run = make_context(dataclasses.replace(run.config, tasks=tasks), run.workdir)
    evaluated = [*run.questions.interleaved(("u.dev", "t.dev"), 6)]
    assert evaluated == ["u/dev/0", "t/dev/0", "u/dev/1", "t/dev/1", "u/dev/2", "t/dev/2"]
    assert len(run.questions.interleaved(("u.dev", "t.dev"), 0)) == 13
    assert [*run.questions.interleaved(("t.dev",), 3)] == ["t/dev/0", "t/dev/1", "t/dev/2"]


def test_curriculum_begins_every_epoch_with_the_questions_on_which_responses_agree(tmp_path):
    run = built(tmp_path, balance_window=1)
    assert "curriculum" not in manifests.student_identity(run, "s")["spec"]["training"]
    run = changed(run, curriculum=True)
    assert manifests.student_identity(run, "s")["spec"]["training"]["curriculum"]
    spec, reader = run.config.students["s"], CorpusReader(folder(run), "train")
    batches = train._open_batches(run, "s", run.models.functions(spec.model, spec.precision), 0)
    number = {tuple(reader[i].prompt): int(reader[i].question_id.rpartition("/")[2]) for i in range(16)}
    epoch = [number[tuple(batches.texts(position)["train"][0])] for position in range(16)]
    assert {i % 4 for i in epoch[:8]} == {1, 2}  # both responses to these questions are right
    assert sorted(epoch) == list(range(16))


def test_curriculum_of_equal_questions_is_refused(tmp_path):
    questions = [question(i) for i in range(4)]
    write_questions(tmp_path / "t", train=questions)
    training = c.Training(curriculum=True, batch_size=2)
    run = make_run(tmp_path, c.Corpus(decontaminate=0), {"sampled": responses(questions, 1)}, training=training)
    build(run, "c")
    spec = run.config.students["s"]
    with pytest.raises(InputError, match="curriculum: the responses of corpus 'c' agree equally on all questions"):
        train._open_batches(run, "s", run.models.functions(spec.model, spec.precision), 0)
