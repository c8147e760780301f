"""Rounds: a second set of responses for the questions that another set fails on."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs import sample as sample_job
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.graph import Step, chain
from scotd_jax.jobs.preparation import manifests
from scotd_jax.jobs.preparation.config_checks import check_config
from scotd_jax.jobs.sample import sample
from scotd_jax.rationales.store import ResponseWriter, read_responses
from tests.helpers.corpora import MODEL, make_run, question, responses, write_questions

QUESTIONS = [question(i) for i in range(6)]
ROWS = responses(QUESTIONS, 1)  # those to questions 0 and 4 are wrong
SECOND = c.ModelSource(("t.train",), failed_in="attempts", model=MODEL, sampling=c.Sampling(n=2), seed=1)


def make(folder, rows, source=SECOND, **sources):
    """Returns a run with a finished set "attempts" and a set "second" that is not sampled."""
    write_questions(folder / "t", train=QUESTIONS)
    run = make_run(folder, c.Corpus(decontaminate=0), {"attempts": rows})
    rationales = run.config.rationales | {"second": source} | sources
    return make_context(dataclasses.replace(run.config, rationales=rationales), run.workdir)


def sampled(run, monkeypatch) -> list[str]:
    """Samples "second" from a teacher that is always right; returns the ids of the questions that it answers."""

    def generate(context, name, spec, questions, folder):
        writer = ResponseWriter(folder)
        writer.write(responses([question for question, _ in questions.values()], 1))
        return writer.merge(list(questions), 1)

    monkeypatch.setattr(sample_job, "_generate", generate)
    sample(run, "second")
    return sorted({row.question_id for row in read_responses(run.response_files("second"))})


def test_only_questions_without_a_correct_response_are_sampled(tmp_path, monkeypatch, capfd):
    run = make(tmp_path, ROWS)
    assert sampled(run, monkeypatch) == [QUESTIONS[0].id, QUESTIONS[4].id]
    assert "2 of 6 questions have no correct response in attempts" in capfd.readouterr().err
    steps = chain(run.config)
    assert steps.index(Step("sample", "attempts")) < steps.index(Step("sample", "second"))


def test_a_question_without_any_response_counts_as_failed(tmp_path, monkeypatch):
    run = make(tmp_path, [row for row in ROWS if row.question_id != QUESTIONS[1].id])
    assert sampled(run, monkeypatch) == [QUESTIONS[k].id for k in (0, 1, 4)]


def test_automatic_batch_size_keeps_the_identity_of_older_work_directories(tmp_path):
    run, old = make(tmp_path, ROWS), dataclasses.replace(SECOND, sampling=c.Sampling(n=2, batch_size=32))
    identity = manifests.responses_identity(run, "second", ())
    assert identity["spec"]["sampling"] == c.plain(old.sampling)
    assert identity == manifests.responses_identity(make(tmp_path, ROWS, old), "second", ())


def test_the_attempts_are_part_of_the_identity_of_a_round(tmp_path):
    identities = []
    for content in ("one", "two"):
        run = make(tmp_path, ROWS)
        attempts = run.artefact("sample", "attempts")
        attempts.begin({"rows": len(ROWS)})
        attempts.finish({}, content)
        identities.append(manifests.responses_identity(run, "second", ()))
    assert identities[0] != identities[1]
    plain = make(tmp_path, ROWS, dataclasses.replace(SECOND, failed_in=""))
    assert "failed_in" not in str(manifests.responses_identity(plain, "second", ()))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row for row in responses(QUESTIONS, 2) if row.correct], "'attempts' has a correct response to each of the 6"),
        (
            [dataclasses.replace(row, correct=None) for row in ROWS],
            "no gold answer, so it is unknown whether",
        ),
    ],
)
def test_rounds_without_failures_or_gold_answers_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        sample(make(tmp_path, rows), "second")


@pytest.mark.parametrize(
    ("fields", "sources", "message"),
    [
        ({"failed_in": "attempt"}, {}, "second.failed_in: 'attempt' is not defined; did you mean 'attempts'"),
        ({"questions": ("t.dev",)}, {}, "'attempts' does not answer 't.dev', so all of its questions would count as"),
        (
            {"seed": 0},
            {"first": dataclasses.replace(SECOND, failed_in="", seed=0)},
            "second.seed: the same model with the same seed answers these questions in config.rationales.first",
        ),
    ],
)
def test_wrong_rounds_are_refused(tmp_path, fields, sources, message):
    run = make(tmp_path, ROWS, dataclasses.replace(SECOND, **fields), **sources)
    with pytest.raises(InputError, match=message):
        check_config(run.config)
    check_config(make(tmp_path, ROWS, **sources).config)
