"""The command `score`: formats of predictions and questions, the join, and what it refuses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.predictions.score_predictions import score_predictions
from scotd_jax.records import Question, Response
from tests.helpers.cli import run_cli

QUESTIONS = [
    Question(f"t/test/{i}", "t", "test", f"Which is {i}? (a) cat (b) dog", ("cat", "dog"), "(b)" if i % 2 else "(a)")
    for i in range(4)
]


def write(path: Path, rows: list[Any]) -> str:
    records = (dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row for row in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in records))
    return str(path)


@pytest.fixture
def questions(tmp_path) -> str:
    return write(tmp_path / "questions.jsonl", QUESTIONS)


def scored(folder: Path, rows: list[Any], questions: str, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Returns the JSON object and the other lines of the output."""
    *lines, last = score_predictions([write(folder / "p.jsonl", rows)], questions, **options).split("\n")
    return json.loads(last), lines


def response(i: int, answer: str | None, sample: int = 0) -> Response:
    return Response(f"t/test/{i}", sample, "any text", None, answer, None, "stop", -1.0, 3, "m", "")


def test_response_records_are_scored_with_their_own_answers(tmp_path, questions):
    found, lines = scored(
        tmp_path, [response(0, "(a)"), response(1, "dog"), response(2, "(b)"), response(3, None)], questions
    )
    assert (found["n"], found["accuracy"], found["unreadable"]) == (4, 0.5, 1)
    assert found["interval"][0] < 0.5 < found["interval"][1]
    assert (found["predictions_without_question"], found["questions_without_prediction"]) == (0, 0)
    assert lines[0] == "4 predictions, 4 questions"
    assert "1 answers could not be read and count as wrong" in lines


def test_predictions_of_one_option_are_stated_to_have_collapsed(tmp_path):
    questions = [dataclasses.replace(QUESTIONS[i % 2], id=f"t/test/{i}") for i in range(24)]
    file = write(tmp_path / "many.jsonl", questions)
    found, lines = scored(tmp_path, [response(i, "(a)") for i in range(24)], file)
    assert "collapsed: it names cat (100.0 % of all answers, 100.0 % where it is wrong)" in lines
    assert found["answers"]["majority"] == {"option": "cat", "accuracy": 0.5}
    _, lines = scored(tmp_path, [response(i, questions[i].answer) for i in range(24)], file)
    assert not any("collapsed" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "right", "outside_format"),
    [
        ("Cats purr. So the answer is: (a)\n\n", True, 0),
        ("Let me think. The correct answer is **A**.", True, 1),
        ("(a)", True, 0),
        ("cat", True, 1),
        ("A.", True, 1),
        ("So the answer is: (b)", False, 0),
        ("it could be the cat or the dog", False, 0),
    ],
)
def test_plain_texts_are_parsed_in_the_usual_forms(tmp_path, questions, text, right, outside_format):
    rows = [{"id": f"t/test/{i}", "response": text if i == 0 else "?", "extra": 1} for i in range(4)]
    found, lines = scored(tmp_path, rows, questions)
    assert found["accuracy"] == (0.25 if right else 0.0)
    assert found["outside_format"] == outside_format
    line = "1 answers are not in the format of the task, by which the evaluate job reads"
    assert (line in lines) == bool(outside_format)


def test_unknown_lengths_have_no_mean(tmp_path, questions):
    rows = [response(i, "(a)") for i in range(4)]
    assert scored(tmp_path, rows, questions)[0]["mean_tokens"] == 3.0
    assert scored(tmp_path, [*rows[:3], {"id": "t/test/3", "answer": "(a)"}], questions)[0]["mean_tokens"] is None


def test_several_predictions_vote_and_surplus_ones_are_left_out(tmp_path, questions):
    answers = {0: "aab", 1: "bba", 2: "bbaaa", 3: "bab"}
    rows = [{"id": i, "answer": answer} for i in answers for answer in answers[i]]
    plain = write(
        tmp_path / "q.jsonl",
        [{"id": i, "choices": ["cat", "dog"], "answer": "(b)" if i % 2 else "(a)"} for i in answers],
    )
    found, lines = scored(tmp_path, rows, plain)
    assert (found["n"], found["samples"], found["predictions"]) == (4, 3, 14)
    assert found["self_consistency"]["accuracy"] == 0.75
    assert found["accuracy"] == pytest.approx((2 + 2 + 1 + 2) / 12)
    assert found["self_consistency"]["pass_at_k"]["3"] == 1.0
    assert "questions have 3 to 5 predictions; the first 3 of each are scored" in lines


def sample(i: int, resps: list[Any], continuations: tuple[str, ...] = ("",), name: str = "none") -> dict[str, Any]:
    """Returns a line of lm-eval's samples_*.jsonl, whose values are texts (`sanitize_list`)."""
    arguments = {f"gen_args_{k}": {"arg_0": "Q: ...", "arg_1": text} for k, text in enumerate(continuations)}
    doc = {"question": QUESTIONS[i].text, "answerKey": "A"}
    fields = {"resps": [resps], "filtered_resps": resps, "filter": name, "metrics": ["acc"], "acc": 1.0}
    return {"doc_id": i, "doc": doc, "target": "0", "arguments": arguments, **fields}


def test_multiple_choice_samples_of_lm_eval_are_joined_by_the_text_of_the_question(tmp_path, questions):
    likelihoods = [["-1.5", "True"], ["-2.5", "False"]]  # the first choice is the most likely one
    found, _ = scored(tmp_path, [sample(i, likelihoods, (" cat", " dog")) for i in range(4)], questions)
    assert (found["accuracy"], found["unreadable"]) == (0.5, 0)
    found, _ = scored(tmp_path, [sample(i, likelihoods[::-1], (" (a)", " (b)")) for i in (1, 3, 0)], questions)
    assert (found["n"], found["accuracy"]) == (3, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("likelihoods", "continuations", "message"),
    [
        ([["-1.5", "True"], ["-2.5", "False"]], ("cat",), "expected 2 arguments, each of a context and a continuation"),
        ([["-1.5", "True"], ["-2.5", "False"]], ("cat", None), "expected 2 arguments"),
        ([["nan", "True"], ["-2.5", "False"]], ("cat", "dog"), "a log-likelihood is not a number"),
    ],
)
def test_multiple_choice_samples_without_a_most_likely_choice_are_refused(
    tmp_path, questions, likelihoods, continuations, message
):
    with pytest.raises(InputError, match=rf"line 1: {message}"):
        scored(tmp_path, [sample(0, likelihoods, continuations)], questions)


def test_invalid_samples_of_lm_eval_have_no_answer(tmp_path):
    """Its filters write "[invalid]" where they find no answer, which could be one to an open question."""
    path = write(tmp_path / "q.jsonl", [{"id": i, "question": f"{i}?", "answer": "red"} for i in range(2)])
    rows = [sample(i, [answer]) | {"doc": {"id": i}} for i, answer in enumerate(("red", "[invalid]"))]
    found, _ = scored(tmp_path, rows, path)
    assert (found["accuracy"], found["unreadable"]) == (0.5, 1)


def test_generated_samples_of_lm_eval_need_a_filter_if_there_are_several(tmp_path, questions):
    rows = [sample(i, ["(a)"], name="strict") for i in range(4)] + [sample(i, ["(b)"], name="last") for i in (1, 3)]
    with pytest.raises(InputError, match="results of 2 filters; choose one: --filter=last"):
        scored(tmp_path, rows, questions)
    assert scored(tmp_path, rows, questions, lm_eval_filter="last")[0]["accuracy"] == 1.0
    with pytest.raises(InputError, match=r"--filter=first: no row of .* has this filter; there are .*strict"):
        scored(tmp_path, rows, questions, lm_eval_filter="first")


def test_unmatched_rows_are_counted_and_a_wrong_question_file_is_refused(tmp_path, questions):
    rows = [{"id": f"t/test/{i}", "answer": "(a)"} for i in (0, 1, 2)]
    found, lines = scored(tmp_path, [*rows, {"id": "other", "answer": "(a)"}], questions)
    assert (found["n"], found["predictions_without_question"], found["questions_without_prediction"]) == (3, 1, 1)
    assert "1 predictions belong to no question and are left out, first 'other'" in lines
    assert "1 questions have no prediction and are left out, first 't/test/3'" in lines
    with pytest.raises(InputError, match=r"line 1: 'x0' is no question of the set, and neither .* such as 't/test/0'"):
        scored(tmp_path, [{"id": f"x{i}", "answer": "(a)"} for i in range(4)], questions)
    with pytest.raises(InputError, match=r"3 of 4 questions have no prediction, first 't/test/1'"):
        scored(tmp_path, rows[:1], questions)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no predictions"),
        ([{"answer": "(a)"}], r"line 1: names no question.*never joined by their order"),
        ([{"id": "t/test/0"}], r"line 1: expected one of the fields text"),
        ([{"id": "t/test/0", "answer": ["(a)"]}], r"line 1: field 'answer' should be str"),
        (["text"], r"line 1: names no question|line 1: expected one of the fields"),
        ([{"id": "t/test/0", "sample_index": 0, "answer": "a"}] * 2, r"sample 0 of question 't/test/0' comes twice"),
    ],
)
def test_unusable_predictions_are_refused(tmp_path, questions, rows, message):
    with pytest.raises(InputError, match=message):
        scored(tmp_path, rows, questions)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "q0", "answer": "(c)", "choices": ["x", "y"]}], r"answer '\(c\)' is neither one of the choices"),
        ([{"id": "q0"}], r"line 1: field 'answer' is missing"),
        ([{"id": "q0", "answer": "x"}] * 2, "'q0' occurs twice"),
        ([dataclasses.replace(QUESTIONS[0], answer=None)], "'t/test/0' has no gold answer"),
        ([], "there are no questions"),
    ],
)
def test_unusable_questions_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        scored(tmp_path, [{"id": "q0", "answer": "x"}], write(tmp_path / "q.jsonl", rows))


def test_missing_files_are_refused(tmp_path, questions):
    with pytest.raises(InputError, match=r"--questions=nowhere.jsonl: no such file; .* with --config"):
        scored(tmp_path, [response(0, "(a)")], "nowhere.jsonl")
    with pytest.raises(InputError, match="nowhere.jsonl: no such file; expected predictions"):
        score_predictions(["nowhere.jsonl"], questions)


def test_question_sets_of_a_config_parse_texts_in_their_format(tmp_path):
    sizes = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 8, "statements": 4}
    config = c.Config(tasks={"w": c.Task(options=sizes)})
    from scotd_jax.tasks.question_loader import QuestionLoader

    found = QuestionLoader(config.tasks, 0).questions("w.test")
    rows = [{"id": q.id, "text": f"first a then b . so the answer is {q.answer}"} for q in found]
    assert scored(tmp_path, rows, "w.test", config=config)[0]["accuracy"] == 1.0


def test_command_line_prints_one_json_object_last(tmp_path, questions):
    predictions = write(tmp_path / "p.jsonl", [response(i, "(a)") for i in range(4)])
    done = run_cli("score", predictions, f"--questions={questions}")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "--questions=q"], "score: needs the files with predictions"),
        (["score", "p.jsonl"], "--questions is missing, for example --questions=questions.jsonl"),
        (["score", "p.jsonl", "--questions=q", "--workdir=w"], "--workdir: has no effect on score"),
        (["show-prompts", "--config=world", "--questions=q"], "--questions: has no effect on show-prompts"),
    ],
)
def test_wrong_flags_are_refused(arguments, message):
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
