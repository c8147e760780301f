"""Files in the layout of lm-eval, read back by the command `score`."""

import json
import math

import pytest
from etils import epath

from scotd_jax.jobs.predictions.score_predictions import score_predictions
from scotd_jax.records import Question, Response, to_json
from scotd_jax.reporting.lm_eval_files import EvaluatedSet, write_lm_eval_files

QUESTIONS = [Question(f"t/test/{i}", "t", "test", f"Which is {i}?", ("cat", "dog"), "(a)") for i in range(4)]
ANSWERS = ["(a)", "(b)", None, "(a)"]


def response(question: Question, answer: str | None, sample: int = 0) -> Response:
    fields = (None, answer, answer == "(a)", "stop", -1.0, 3, "m", "")
    return Response(question.id, sample, f"so it is {answer}", *fields)


def written(folder, samples: int = 1) -> tuple[dict, list[dict]]:
    rows = [response(q, a, k) for q, a in zip(QUESTIONS, ANSWERS, strict=True) for k in range(samples)]
    prompts = {q.id: f"Q: {q.text}\nA: " for q in QUESTIONS}
    write_lm_eval_files(epath.Path(folder), "N = 30", {"t.test": EvaluatedSet(QUESTIONS, rows, prompts)}, 5, 64)
    [results], [lines] = folder.glob("results_*.json"), folder.glob("samples_t.test_*.jsonl")
    return json.loads(results.read_text()), [json.loads(line) for line in lines.read_text().splitlines()]


def test_results_have_the_accuracy_and_its_standard_error(tmp_path):
    results, samples = written(tmp_path / "lm_eval")
    entry = results["results"]["t.test"]
    assert (entry["acc,none"], entry["sample_len"], results["n-shot"]["t.test"]) == (0.5, 4, 5)
    assert entry["acc_stderr,none"] == pytest.approx(math.sqrt(0.25 / 3))
    assert results["model_name"] == "N = 30"
    assert [sample["acc"] for sample in samples] == [1.0, 0.0, 0.0, 1.0]
    first = samples[0]
    assert (first["doc_id"], first["target"], first["filtered_resps"]) == (0, "(a)", ["(a)"])
    assert first["resps"] == [["so it is (a)"]]
    assert first["arguments"]["gen_args_0"]["arg_0"] == "Q: Which is 0?\nA: "
    assert samples[2]["filtered_resps"] == ["[invalid]"]


def test_files_are_written_anew(tmp_path):
    written(tmp_path / "lm_eval")
    written(tmp_path / "lm_eval")
    assert len(list((tmp_path / "lm_eval").iterdir())) == 2


@pytest.mark.parametrize("samples", [1, 3])
def test_score_reads_the_samples_with_the_same_result(tmp_path, samples):
    written(tmp_path / "lm_eval", samples)
    (tmp_path / "q.jsonl").write_text("".join(to_json(q) + "\n" for q in QUESTIONS))
    [path] = (tmp_path / "lm_eval").glob("samples_*.jsonl")
    found = json.loads(score_predictions([str(path)], str(tmp_path / "q.jsonl")).splitlines()[-1])
    assert (found["accuracy"], found["samples"], found["unreadable"]) == (0.5, samples, samples)
