"""Prompts that exceed a model's positions are found before any work; those that a corpus leaves out are counted."""

import dataclasses
import json

import pytest

from scotd_jax import config as c
from scotd_jax import main, subcommands
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.graph import Step
from scotd_jax.jobs.preparation.prompt_lengths import PromptLengths
from scotd_jax.records import Question
from scotd_jax.workdir import Workdir
from tests.helpers.corpora import MODEL, make_run, question, write_questions

SMALL = dataclasses.replace(MODEL, overrides={"max_position_embeddings": 64})
BRIEF = c.Sampling(temperature=0.0, max_new_tokens=16)
LONG = Question("t/dev/long", "t", "dev", "word " * 50, ("yes", "no"), "yes")  # a prompt of 53 tokens


@pytest.fixture
def home(tmp_path):
    write_questions(
        tmp_path / "t", train=[question(0)], dev=[question(0, "dev"), LONG], test=[question(i, "test") for i in (0, 1)]
    )
    return tmp_path


def make(home, model=SMALL, corpus: c.Corpus | None = None, **student) -> RunContext:
    """Returns a run with a teacher, the student "s", and its evaluation "more" with two few-shot examples."""
    corpus = corpus or c.Corpus("label", questions=("t.train",))
    run = make_run(home, corpus, {}, model=model, **student)
    source = c.ModelSource(questions=("t.dev",), model=model, sampling=BRIEF)
    evals = {"more": c.EvalSpec("s", ("t.test",), few_shot=2)}
    settings = {"evaluation": c.Evaluation(sampling=BRIEF), "evals": evals, "rationales": {"teacher": source}}
    config = dataclasses.replace(run.config, **settings)
    return dataclasses.replace(run, config=config)


TOO_LONG = r"question 't/dev/long' of t.dev: 53 prompt tokens and 16 of the response exceed the model's 64 positions; "


@pytest.mark.parametrize(
    ("step", "fields", "where"),
    [
        (Step("evaluate", "s"), {"eval_sets": ("t.test", "t.dev")}, "config.students.s.eval_sets"),
        (Step("train", "s"), {"dev_sets": ("t.dev",)}, "config.students.s.dev_sets"),
        (Step("sample", "teacher"), {}, "config.rationales.teacher"),
    ],
)
def test_prompt_beyond_the_positions_is_refused(home, step, fields, where):
    with pytest.raises(InputError, match=f"{where}: {TOO_LONG}shorten the question"):
        PromptLengths(make(home, **fields)).check(step)
    PromptLengths(make(home, dataclasses.replace(SMALL, overrides={"max_position_embeddings": 69}), **fields)).check(
        step
    )
    PromptLengths(make(home, c.Model(architecture="t5-tiny", tokenizer="task:t"), **fields)).check(step)


def test_few_shot_examples_count(home):
    fields = {"text": "Is it?", "choices": ["yes", "no"], "answer": "yes", "rationale": "so " * 15}
    exemplars = home / "exemplars.jsonl"
    exemplars.write_text(f"{json.dumps(fields)}\n" * 2)
    config = make(home).config
    tasks = {"t": dataclasses.replace(config.tasks["t"], exemplars=str(exemplars))}
    run = make_context(dataclasses.replace(config, tasks=tasks), Workdir(str(home / "w")))
    with pytest.raises(
        InputError, match=r"config.evals.more.eval_sets: question 't/test/1' of t.test: \d+ prompt tokens"
    ):
        PromptLengths(run).check(Step("evaluate", "more"))


def test_only_the_questions_that_are_read_count(home):
    run = make(home, dev_sets=("t.dev",), eval_sets=("t.dev",))
    limited = dataclasses.replace(run.config.evaluation, limit=1, dev_questions=1)
    lengths = PromptLengths(dataclasses.replace(run, config=dataclasses.replace(run.config, evaluation=limited)))
    lengths.check(Step("train", "s"))
    lengths.check(Step("evaluate", "s"))


def test_training_prompts_are_left_out_and_counted_or_refused(home, capfd):
    dropped = make(home, corpus=c.Corpus("label", questions=("t.dev",), max_prompt_tokens=50))
    PromptLengths(dropped).check(Step("train", "s"))
    PromptLengths(dropped).check(Step("build", "c"))
    line = "corpus c: 1 of 2 questions have prompts of more than 50 tokens (max_prompt_tokens) and will be left out"
    assert line in capfd.readouterr().err
    tiny = dataclasses.replace(SMALL, overrides={"max_position_embeddings": 53})
    read = make(home, tiny, corpus=c.Corpus("label", questions=("t.dev",), max_prompt_tokens=53))
    PromptLengths(read).check(Step("build", "c"))
    assert "corpus c" not in capfd.readouterr().err
    with pytest.raises(InputError, match="53 prompt tokens and 1 of the response.*lower config.corpora.c.max_prompt"):
        PromptLengths(read).check(Step("train", "s"))


def test_run_is_refused_before_any_work(home):
    config = make(home, eval_sets=("t.dev",)).config
    config = dataclasses.replace(config, evals={}, rationales={})
    with pytest.raises(InputError, match=TOO_LONG):
        main.run(c.plain(config), str(home / "w"), (), (), "")
    assert not (home / "w").exists()
    assert subcommands.dry_run(c.plain(config), str(home / "w"), (), (), "").status == subcommands.INPUT_ERROR
