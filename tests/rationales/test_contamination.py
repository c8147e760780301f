"""Overlap with evaluation questions, compared with a literal implementation of the definition, and in the build job."""

import dataclasses
import json
import random

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.build import build
from scotd_jax.rationales.contamination import contaminated_ids, question_words
from scotd_jax.records import Question
from tests.helpers.corpora import built, folder, make_run, question, responses, write_questions


def make_question(i: int, text: str, **fields) -> Question:
    return Question(f"q{i}", "t", "s", text, **fields)


def contaminated_reference(questions, evaluation, length):
    """The ids of the questions that share a sequence of `length` words, or all their words, with an evaluation one."""

    def ngrams(q):
        text = question_words(q)
        whole = {tuple(text)} if 0 < len(text) < length else set()
        return whole | {tuple(text[i : i + length]) for i in range(len(text) - length + 1)}

    seen = set().union(*map(ngrams, evaluation))
    return [q.id for q in questions if ngrams(q) & seen]


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_overlap_matches_the_definition(length):
    rng = random.Random(length)

    def draw(count):
        return [make_question(i, " ".join(rng.choices("abcdefg", k=rng.randrange(12)))) for i in range(count)]

    for _ in range(20):
        questions, evaluation = draw(25), draw(8)
        assert contaminated_ids(questions, evaluation, length) == contaminated_reference(questions, evaluation, length)
    assert contaminated_ids(draw(2500), draw(3), 4)  # questions are compared in batches; these are more than one


def test_case_and_punctuation_are_ignored_and_choices_and_context_count():
    evaluation = [make_question(0, "Which one is it, then?", choices=("A red stone", "Snow"), context="It lay there.")]
    same = make_question(1, "which one is it then (a) RED stone, (b) snow", context="a tale: it lay there!")
    assert " ".join(question_words(evaluation[0])) == "it lay there which one is it then a red stone snow"
    assert contaminated_ids([same], evaluation, 7) == ["q1"]
    assert contaminated_ids([same], evaluation, 12) == []
    listed = make_question(2, "Which? (a) A red stone (b) Snow", choices=("A red stone", "Snow"))
    assert question_words(listed) == ["which", "a", "a", "red", "stone", "b", "snow"]


def test_short_question_overlaps_only_with_equal_ones():
    short, longer = make_question(0, "Is snow white?"), make_question(1, "Is snow white? Explain why you think so.")
    same, evaluation = make_question(2, "is snow, white"), [make_question(3, "Is snow white")]
    assert contaminated_ids([short, longer, same], evaluation, 13) == [
        "q0",
        "q2",
    ]
    assert contaminated_ids([short], [longer], 13) == []
    assert contaminated_ids([make_question(0, "..."), make_question(1, "")], [make_question(2, "?")], 13) == []
    assert contaminated_ids([], [], 13) == []


@pytest.fixture
def home(tmp_path):
    train = [question(i) for i in range(6)]
    copy = Question("t/dev/copy", "t", "dev", f"Now: {train[2].text.upper()}!", ("yes", "no"), "no")
    own = [question(i, "test") for i in range(3)]
    write_questions(tmp_path / "t", train=train, dev=[copy], test=own, more=[question(9, "more")])
    return tmp_path, responses(train, 4)


def test_evaluation_questions_are_dropped_and_counted(home):
    path, rows = home
    run = make_run(path, c.Corpus(), {"sampled": rows}, dev_sets=("t.dev",), eval_sets=("t.test",))
    assert "t/train/2" not in {example.question_id for example in built(run)["train"]}
    report = json.loads((folder(run) / "ledger.json").read_text())
    right = sum(row.correct for row in rows if row.question_id == "t/train/2")
    assert report["per_question"]["t/train/2"] == {"wrong": 4 - right, "contaminated": right}
    assert report["bins"]["contaminated"] == right


def test_evaluation_set_without_overlap_does_not_change_the_corpus_identity(home, capsys):
    path, rows = home
    first = make_run(path, c.Corpus(), {"sampled": rows}, dev_sets=("t.dev",))
    build(first, "c")
    assert "1 questions overlap" in capsys.readouterr().err
    digest = first.artefact("build", "c").digest
    again = make_run(path, c.Corpus(), {"sampled": rows}, dev_sets=("t.dev",), eval_sets=("t.test",))
    again.config.evals["more"] = c.EvalSpec(student="s", eval_sets=("t.more",))
    build(again, "c")
    assert again.artefact("build", "c").digest == digest
    other = make_run(path, c.Corpus(), {"sampled": rows}, eval_sets=("t.test",))
    with pytest.raises(InputError, match="made by another configuration: contaminated was"):
        build(other, "c")


def test_overlap_in_other_prompts_counts_and_decontamination_can_be_disabled(home):
    path, rows = home
    run = make_run(path, c.Corpus(recipe="label"), {"sampled": rows})
    run.config.evals["more"] = c.EvalSpec(student="s", eval_sets=("t.dev",))
    assert len(built(run)["train"]) == 5
    run.artefact("build", "c").remove()
    off = make_run(path, c.Corpus(decontaminate=0), {"sampled": rows}, dev_sets=("t.dev",))
    assert len(built(off)["train"]) == 6


def test_corpus_of_labels_is_decontaminated(home):
    path, _ = home
    run = make_run(path, c.Corpus(recipe="label", questions=("t.train",)), {}, dev_sets=("t.dev",))
    assert len(built(run)["train"]) == 5
    assert run.artefact("build", "c").manifest()["counts"]["left_out"] == {"contaminated": 1}


def test_evaluating_on_training_questions_is_refused(home):
    path, rows = home
    run = make_run(path, c.Corpus(), {"sampled": rows}, eval_sets=("t.train",))
    with pytest.raises(InputError, match=r"config.corpora.c: student 's' trains on 't.train' and is evaluated on it"):
        build(run, "c")


def test_first_stage_is_decontaminated_against_questions_of_the_second(home):
    """A first stage has no evaluation sets, but the second stage is evaluated with its rationales."""
    path, rows = home
    run = make_run(path, c.Corpus(recipe="rationale"), {"sampled": rows})
    run.config.rationales["own"] = c.ModelSource(questions=("t.dev",), model=c.Model(student="s"))
    run.config.corpora["second"] = c.Corpus(recipe="infer", rationales=("sampled",))
    run.config.students["second"] = dataclasses.replace(run.config.students["s"], corpus="second")
    assert len(built(run)["train"]) == 6
    run.artefact("build", "c").remove()
    run.config.evals["second"] = c.EvalSpec(student="second", eval_sets=("t.dev",), rationales_from=("own",))
    assert len(built(run)["train"]) == 5
