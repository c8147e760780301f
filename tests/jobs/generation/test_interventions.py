"""Answers after changed rationales, and predictions of a simulator, for students of both kinds of recipes."""

import dataclasses
import json

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs import graph
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.evaluate import evaluate
from scotd_jax.jobs.generation import evaluation_answers, interventions
from scotd_jax.jobs.generation.choices import score_choices
from scotd_jax.jobs.generation.local import PromptedModel, load_prompted_model
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.jobs.preparation import manifests
from scotd_jax.jobs.preparation.config_checks import check_config
from scotd_jax.jobs.report_parts import run_results
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Response
from tests.helpers.corpora import MODEL, make_run, question, responses, write_questions

pytestmark = pytest.mark.usefixtures("fast_compilation")

TEST = [question(i, "test") for i in range(6)]
GREEDY = c.Sampling(temperature=0.0, max_new_tokens=6, batch_size=8, bucket=32)
CHANGES = ("truncated", "shuffled", "other", "empty")


def make(folder, evaluation: c.Evaluation) -> RunContext:
    """Returns a run with students "s" (rationale, then answer) and "reader" (answer after a provided rationale)."""
    write_questions(folder / "t", train=[question(i) for i in range(4)], test=TEST)
    run = make_run(folder, c.Corpus(decontaminate=0), {"sampled": []}, precision="float32", eval_sets=("t.test",))
    students = dict(run.config.students)
    students["reader"] = dataclasses.replace(students["s"], corpus="infer", rationales_from=("teacher",))
    students["labels"] = dataclasses.replace(students["s"], corpus="labels")
    corpora = run.config.corpora | {
        "infer": c.Corpus("infer", rationales=("sampled",), decontaminate=0),
        "labels": c.Corpus("label", questions=("t.train",), decontaminate=0),
    }
    rationales = {**run.config.rationales, "teacher": c.FileSource(questions=("t.test",))}
    config = dataclasses.replace(
        run.config, students=students, corpora=corpora, rationales=rationales, evaluation=evaluation
    )
    return make_context(config, run.workdir)


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunContext:
    """A run whose students are "trained" with random weights, with rationales of a teacher for the test questions."""
    run = make(
        tmp_path, c.Evaluation("choices", GREEDY, interventions=CHANGES, oracle_from=("teacher",), simulator="reader")
    )

    def load(context, name, model, precision, prompts, **_) -> PromptedModel:
        return load_prompted_model(context, name, MODEL, precision, prompts, seed=len(name))

    for module in (evaluation_answers, interventions):
        monkeypatch.setattr(module, "load_prompted_model", load)
    for name in run.config.students:
        trained = run.artefact("train", name)
        trained.begin({})
        trained.finish({})
    stored = run.artefact("sample", "teacher")
    stored.begin({})
    writer = ResponseWriter(stored.path)
    writer.write(responses(TEST, 1))  # the response to every fourth question is wrong
    writer.merge([q.id for q in TEST], 1)
    stored.finish({})
    return run


def results(run: RunContext, name: str) -> dict:
    evaluate(run, name)
    path = run.artefact("evaluate", name).path / "results.json"
    return json.loads(path.read_text())["choices"]["sets"]["t.test"]


def stored(run: RunContext, name: str, part: str = "") -> list[Response]:
    part = f".{part}" if part else ""
    return list(read_responses([run.artefact("evaluate", name).path / f"t.test.choices{part}.responses.jsonl"]))


def most_likely(run: RunContext, name: str, rows: list[Response]) -> dict[str, str]:
    """The most likely choice after the rationale of every row."""
    prompts = prompt_settings(run.config, c.Model(student=name))
    model = load_prompted_model(run, name, MODEL, "float32", prompts, seed=len(name))
    scored = score_choices(run, model, run.questions.by_id(("t.test",)), rows, GREEDY)
    scores = {key[0]: by_answer for batch in scored for key, by_answer in batch}
    return {id_: max(by_answer, key=lambda answer: by_answer[answer].log_p) for id_, by_answer in scores.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s", "reader"])
def test_choices_are_compared_after_changed_rationales(run, name, capfd):
    found = results(run, name)
    assert list(found["interventions"]) == [*CHANGES, "oracle"]
    own = {row.question_id: row for row in stored(run, name)}
    texts = {id_: row.rationale or row.text for id_, row in own.items()}
    words = {id_: text.split() for id_, text in texts.items()}
    ids = list(own)
    gold = {row.question_id: row.rationale for row in responses(TEST, 1) if row.correct}
    expected = {
        "truncated": {id_: " ".join(words[id_][: len(words[id_]) // 2]) for id_ in ids},
        "other": {id_: texts[ids[i - 1]] for i, id_ in enumerate(ids)},
        "empty": dict.fromkeys(ids, ""),
        "oracle": gold,
    }
    for change, rationales in expected.items():
        rows = stored(run, name, change)
        assert {row.question_id: row.rationale for row in rows} == rationales
        assert {row.question_id: row.answer for row in rows} == most_likely(run, name, rows)
        scores = found["interventions"][change]
        assert scores["n"] == len(rationales)
        assert scores["changed"] == sum(row.answer != own[row.question_id].answer for row in rows) / len(rows)
        assert scores["accuracy"] == sum(row.answer == "yes" for row in rows) / len(rows)
        assert scores["own_accuracy"] == sum(own[row.question_id].answer == "yes" for row in rows) / len(rows)
    shuffled = {row.question_id: row.rationale for row in stored(run, name, "shuffled")}
    assert {id_: sorted(text.split()) for id_, text in shuffled.items()} == {id_: sorted(w) for id_, w in words.items()}
    assert shuffled != texts
    log = capfd.readouterr().err
    assert "t.test: 2 of 6 questions have no right rationale in teacher" in log
    assert "other answers after changed rationales: truncated" in log
    changes = run_results._changes(run, name, "t.test", found)
    assert {key: sum(v.changed.values()) / len(v.changed) for key, v in changes.items()} == {
        key: pytest.approx(scores["changed"]) for key, scores in found["interventions"].items()
    }
    if name == "reader":
        assert "simulatability" not in found, "the simulator does not predict itself"
    else:
        check_simulator(run, own, texts, found["simulatability"])


def check_simulator(run: RunContext, own: dict[str, Response], texts: dict[str, str], scores: dict) -> None:
    """Compares the predictions from question and rationale, from the question, and from the rationale."""
    predicted = {part: stored(run, "s", f"simulated_{part}") for part in ("both", "question", "rationale")}
    assert {row.question_id: row.rationale for row in predicted["both"]} == texts
    assert {row.question_id: row.rationale for row in predicted["rationale"]} == texts
    assert {row.rationale for row in predicted["question"]} == {""}
    for part in ("both", "question"):
        answers = {row.question_id: row.answer for row in predicted[part]}
        assert answers == most_likely(run, "reader", predicted[part])
    for part, rows in predicted.items():
        share = sum(row.answer == own[row.question_id].answer for row in rows) / len(rows)
        assert scores[f"predicted_from_{part}"] == pytest.approx(share)


def test_students_without_rationales_are_evaluated_as_before(run):
    found = results(run, "labels")
    assert "interventions" not in found
    assert "simulatability" not in found
    identity = manifests.evaluation_identity(run, "labels")
    assert set(identity) >= {"interventions", "oracle", "simulator"}
    plain = dataclasses.replace(run.config, evaluation=c.Evaluation("choices", GREEDY))
    before = manifests.evaluation_identity(make_context(plain, run.workdir), "labels")
    assert before == {
        key: value for key, value in identity.items() if key not in ("interventions", "oracle", "simulator")
    }


def test_evaluations_need_the_simulator_and_the_right_rationales(run):
    steps = list(graph.needs(run.config, graph.Step("evaluate", "s")))
    assert graph.Step("train", "reader") in steps
    assert graph.Step("sample", "teacher") in steps
    assert graph.Step("train", "reader") in graph.needs(run.config, graph.Step("evaluate", "reader"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interventions": ("shufled",)}, r"evaluation.interventions: .*'shufled'.*did you mean 'shuffled'"),
        ({"interventions": ("empty",), "read": "text"}, r"interventions: compares choices .* set .*read='both'"),
        ({"simulator": "reader", "read": "text"}, r"simulator: compares choices"),
        ({"simulator": "labels"}, r"simulator: student 'labels' has no rationale in its prompts"),
        ({"simulator": "x"}, r"config.evaluation.simulator"),
        ({"oracle_from": ("sampled",)}, r"oracle_from: no set of responses there has 't.test'"),
        ({"oracle_from": ("x",)}, r"config.evaluation.oracle_from"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, fields, message):
    run = make(tmp_path, c.Evaluation(**{"read": "both", "sampling": GREEDY} | fields))
    with pytest.raises(InputError, match=message):
        check_config(run.config)
