"""Tests of the evaluate job with fixed responses: its files, its printed lines, and the results that it keeps."""

import dataclasses
import json
from collections.abc import Sequence

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs import evaluate as evaluate_job
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.generation import evaluation_answers
from scotd_jax.jobs.generation.local import PromptedModel
from scotd_jax.jobs.report_parts.evaluated_sets import read_evaluated
from scotd_jax.records import Response
from scotd_jax.sampling.decode_pass import SamplerStats
from scotd_jax.sampling.requests import Request, Sample
from scotd_jax.tasks.prompt_formats import is_correct
from tests.helpers.corpora import make_run, question, write_questions


class FixedModel(PromptedModel):
    """Replaces a loaded student and its sampler; every n-th response is unreadable, the others are "yes"."""

    name, stats = "s", SamplerStats()

    def __init__(self):
        # Ids of the prompted questions, and n; the class is frozen.
        self.__dict__.update(prompted=[], unreadable=3)

    def sampler(self, questions, sampling, seed, mesh):
        return self

    def requests(self, questions, n, done, rationales):
        return [Request(id_, [1], (0,)) for id_ in questions if (id_, 0) not in done]

    def __call__(self, requests):
        self.prompted.extend(request.question_id for request in requests)
        yield [Sample(request.question_id, 0, "yes", "stop", -1.0, 1, (1,)) for request in requests]

    def responses(self, samples, questions, sampling, rationales):
        rows = []
        for sample in samples:
            answer = None if int(sample.question_id.rpartition("/")[2]) % self.unreadable == 0 else "yes"
            correct = is_correct(answer, questions[sample.question_id][0])
            rows.append(Response(sample.question_id, 0, "yes", None, answer, correct, "stop", -1.0, 1, "s", "greedy"))
        return rows


@pytest.fixture
def model(monkeypatch) -> FixedModel:
    model = FixedModel()
    monkeypatch.setattr(evaluation_answers, "load_prompted_model", lambda *args: model)
    return model


def run_with(folder, eval_sets: Sequence[str], **evaluation) -> RunContext:
    """Returns a run whose student "s" has a complete training artefact."""
    if not (folder / "t").exists():
        write_questions(folder / "t", **{s: [question(i, s) for i in range(6)] for s in ("train", "dev", "test")})
    run = make_run(folder, c.Corpus("label", questions=("t.train",)), {}, eval_sets=tuple(eval_sets))
    config = dataclasses.replace(run.config, evaluation=c.Evaluation(**evaluation))
    run = make_context(config, run.workdir)
    trained = run.artefact("train", "s")
    if trained.begin({}):
        trained.finish({})
    return run


def evaluate(folder, eval_sets: Sequence[str], **evaluation) -> dict:
    run = run_with(folder, eval_sets, **evaluation)
    evaluate_job.evaluate(run, "s")
    return json.loads((run.artefact("evaluate", "s").path / "results.json").read_text())


def test_folds_can_be_reported(tmp_path, model):
    sets = ("t.dev@0/2", "t.dev@!0/2")
    assert list(evaluate(tmp_path, sets)["sets"]) == list(sets)
    run = run_with(tmp_path, sets)
    folder = run.artefact("evaluate", "s").path
    assert {path.name for path in folder.glob("*.jsonl")} == {
        "t.dev@0-of-2.responses.jsonl",
        "t.dev@!0-of-2.responses.jsonl",
    }
    for set_name in sets:
        questions, rows = read_evaluated(run, "s", set_name)
        assert [row.question_id for row in rows] == [q.id for q in questions] != []


def test_line_states_how_many_answers_could_not_be_read(tmp_path, model, capfd):
    evaluate(tmp_path, ["t.dev"])
    assert "t.dev: accuracy 66.7 of 6 questions, 2 answers could not be read" in capfd.readouterr().err


def test_line_states_a_collapse(tmp_path, model, capfd):
    questions = [dataclasses.replace(question(i, "dev"), answer="no" if i % 2 else "yes") for i in range(24)]
    write_questions(tmp_path / "t", train=[question(0)], dev=questions)
    model.__dict__["unreadable"] = 100
    results = evaluate(tmp_path, ["t.dev"])
    expected = (
        "accuracy 45.8 of 24 questions, 1 answers could not be read, collapsed: it names yes (95.8 % of all answers"
    )
    assert expected in capfd.readouterr().err
    assert results["sets"]["t.dev"]["answers"]["collapsed"]["option"] == "yes"


def test_reported_sets_are_added_and_dropped_without_repeating_the_others(tmp_path, model, capfd):
    first = evaluate(tmp_path, ["t.dev", "t.test"])
    assert len(model.prompted) == 12
    assert evaluate(tmp_path, ["t.test"])["sets"] == {"t.test": first["sets"]["t.test"]}
    capfd.readouterr()
    evaluate(tmp_path, ["t.test"])
    assert "already complete" in capfd.readouterr().err
    added = evaluate(tmp_path, ["t.test", "t.train"])
    assert list(added["sets"]) == ["t.test", "t.train"]
    assert model.prompted[12:] == [f"t/train/{i}" for i in range(6)]
    assert evaluate(tmp_path, ["t.dev", "t.test"]) == first
    assert len(model.prompted) == 18
    with pytest.raises(InputError, match="made by another configuration: sampling.max_new_tokens was 256 and is now 9"):
        evaluate(tmp_path, ["t.test"], sampling=c.Sampling(temperature=0.0, max_new_tokens=9))
    write_questions(tmp_path / "t", train=[question(i) for i in range(5)], dev=[question(7, "dev")])
    with pytest.raises(InputError, match="made by another configuration: questions.t.dev was"):
        evaluate(tmp_path, ["t.dev"])
    (tmp_path / "t/test.jsonl").unlink()
    with pytest.raises(InputError, match="made by another configuration: questions.t.train was"):
        evaluate(tmp_path, ["t.train"])  # its results were dropped, but its questions have changed


def test_questions_without_their_contrast_pair_are_stated(tmp_path, model, capfd):
    edits = [dataclasses.replace(question(i, "contrast"), answer="no", group=f"t/test/{i}") for i in range(5)]
    edits.append(question(5, "contrast"))
    write_questions(tmp_path / "t", train=[question(0)], test=[question(i, "test") for i in range(4)], contrast=edits)
    results = evaluate(tmp_path, ["t.test", "t.contrast"])
    assert results["contrast"]["n"] == 4
    line = "2 questions are in no contrast pair, first 't/contrast/4': no other member of its group 't/test/4' is in"
    assert line in capfd.readouterr().err
