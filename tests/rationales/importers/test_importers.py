"""Every importer on invented rows in exactly the form of its files."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.joining import FileImport
from scotd_jax.rationales.importers.registry import IMPORTERS
from scotd_jax.records import Question, Response
from scotd_jax.tasks.base import SplitTask
from scotd_jax.tasks.prompt_formats import FORMATS

KETTLE = "What boils water? (a) kettle (b) cupboard"
LADDER = "What is climbed? (a) soup (b) ladder"
QUESTIONS = [
    Question("home/train/k1", "home", "train", KETTLE, ("kettle", "cupboard"), "(a)"),
    Question("home/train/k2", "home", "train", LADDER, ("soup", "ladder"), "(b)"),
    Question("home/train/k3", "home", "train", LADDER, ("soup", "ladder"), "(b)"),  # same text as k2
]
TASK = SplitTask("home", FORMATS["scotd"], {"train": lambda: (QUESTIONS, [])})
QUESTIONS_BY_ID = {q.id: (q, TASK) for q in QUESTIONS}
COMPLETION_A = "Heat does it. So the answer is: (a)"
COMPLETION_B = "Rungs help. So the answer is: (b)"


def write(path: Path, content: Any, lines: bool = False) -> Path:
    """Writes a JSON document, or a list as JSON lines; gzipped if the name ends in .gz."""
    text = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def importing(
    path: Path | str, importer: str, skip_bad: bool = False, answer_pattern: str = "", **options: Any
) -> tuple[list[Response], FileImport]:
    """Imports the files for QUESTIONS; returns the responses, and the import with its ledger."""
    spec = c.FileSource(path=str(path), importer=importer, options=options, answer_pattern=answer_pattern)
    job = FileImport(spec, "config.rationales.r", skip_bad)
    return list(job.responses(QUESTIONS_BY_ID)), job


def short(rows: Iterable[Response]) -> list[tuple]:
    """The fields to compare: last two characters of the question id, sample index, rationale, answer, correct."""
    return [(r.question_id[-2:], r.sample_index, r.rationale, r.answer, r.correct) for r in rows]


# `short` of a first response with COMPLETION_A to KETTLE, and with COMPLETION_B to LADDER.
A = ("k1", 0, "Heat does it.", "(a)", True)
B = ("k2", 0, "Rungs help.", "(b)", True)


def test_quarel(tmp_path):
    rows = [
        {"question": KETTLE, "gold_label": "(a)", "predicted_label": label, "predicted_rationale": "Heat does it."}
        for label in ("(a)", "(a)", "(b)")
    ]
    path = write(tmp_path / "train.jsonl.gz", {str(i): row for i, row in enumerate(rows)})
    rows, _ = importing(path, "quarel_davinci003")
    assert short(rows) == [A, ("k1", 1, *A[2:]), ("k1", 2, "Heat does it.", "(b)", False)]
    assert rows[0].text == "Heat does it. So the answer is: (a)\n\n"
    assert rows[0].model == "text-davinci-003"


@pytest.mark.parametrize(
    ("output", "rationale", "answer"),
    [
        ("Heat does it. The answer is A", "Heat does it.", "(a)"),
        ("1. Heat does it.2. Not B.The correct answer is A: kettle.", "1. Heat does it.2. Not B.", "(a)"),
        ("First\nthe answer is B. No!\nThus, the answer is **A**", "First\nthe answer is B. No!", "(a)"),
        ("The answer is none of the above", None, None),
        ("The answer is D", "", None),
    ],
)
def test_openbookqa(tmp_path, output, rationale, answer):
    question = "Q: What  boils water? Answer choices: A: kettle, B: cupboard"
    path = write(tmp_path / "obqa_gemini_level1_ranked.json.gz", [{"instruction": question, "output": output}])
    rows, _ = importing(path, "openbookqa_multi")
    assert short(rows) == [("k1", 0, rationale, answer, answer is not None)]
    assert (rows[0].text, rows[0].model) == (output, "obqa_gemini_level1_ranked")


def test_commonsenseqa_palm(tmp_path):
    """Shards are read in numeric order, text after a blank line is cut, and ids come from the file beside them."""
    completions = [
        "Heat does it. So the answer is (a) kettle.\n\nQ: Next?\nA: So the answer is (b) no.",
        "Rungs help. So the answer is either (a) soup or (b) ladder.\n\nQ: Next",
        "Rungs help. So the answer is (b) ladder.\n\nQ:",
    ]
    for shard, text in zip((0, 2, 10), completions, strict=True):
        write(tmp_path / f"train_CoT_{shard}.json", [text])
    (tmp_path / "train_ids.txt").write_text("k1\nk3\nk2\n")
    rows, job = importing(tmp_path / "train_CoT_*.json", "commonsenseqa_palm540b")
    assert short(rows) == [A, ("k3", 0, "Rungs help.", None, False), B]
    assert [path.name for path in job.files] == [*(f"train_CoT_{k}.json" for k in (0, 2, 10)), "train_ids.txt"]
    assert rows[0].text == "Heat does it. So the answer is (a) kettle."
    (tmp_path / "train_ids.txt").write_text("k1\nk3\n")
    with pytest.raises(InputError, match="train_CoT_10.json row 1: record 3, but .*train_ids.txt has 2 ids"):
        importing(tmp_path / "train_CoT_*.json", "commonsenseqa_palm540b")
    (tmp_path / "train_ids.txt").unlink()
    with pytest.raises(InputError, match="names no question.*option 'ids'"):
        importing(tmp_path / "train_CoT_*.json", "commonsenseqa_palm540b")


def test_scotd_30x(tmp_path):
    few_shot = "Q: An example?\nA: Yes. So the answer is: (a)\n\n"
    row = {"prompt": f"{few_shot}Q: {KETTLE}\nA:", "response": f"\n{COMPLETION_A}\n\n", "score": 1.0, "index": 7}
    row |= {"rationale": " Heat does it.", "token_probs": [-0.5, -0.25], "tokens": ["x", "y"]}
    bare = {k: v for k, v in row.items() if k not in ("tokens", "token_probs")} | {
        "response": "no marker",
        "score": 0.0,
    }
    rows, _ = importing(write(tmp_path / "csqa_30x.json", [row, row, bare]), "scotd_30x")
    assert short(rows) == [A, ("k1", 1, *A[2:]), ("k1", 2, None, None, False)]
    assert [(r.logprob, r.num_tokens) for r in rows] == [(-0.75, 2), (-0.75, 2), (0.0, 0)]


def test_reasoning_teacher(tmp_path):
    zero_shot = {
        "sample_index": 4,
        "completion_index": 3,
        "question": KETTLE,
        "answer": "A",
        "reasoning_prompt": f"Q: {KETTLE}\nA: Let's think step by step.",
        "reasoning_completion": "\n\nHeat does it.",
        "reasoning_finish_reason": "length",
        "prompt": "Therefore, among A through B, the answer is",
        "completion": " A.",
        "finish_reason": "stop",
    }
    few_shot = {"sample_index": 9, "completion_index": 0, "question": LADDER, "answer": "B", "completion": COMPLETION_B}
    file = {
        "metadata": {"base_model": "text-davinci-002", "completion_key": "zs_cot", "reasoning_temperature": 0.7},
        "data": {"4": [zero_shot], "9": [few_shot]},
    }
    rows, _ = importing(write(tmp_path / "D.json", file), "reasoning_teacher")
    reordered, _ = importing(write(tmp_path / "R.json", dict(reversed(file.items()))), "reasoning_teacher")
    assert reordered == rows, "the metadata may follow the data"
    assert short(rows) == [("k1", 3, *A[2:]), B]
    assert [r.finish_reason for r in rows] == ["length", "stop"]
    assert rows[0].text == "Heat does it. A."
    assert (rows[0].model, rows[0].sampling) == ("text-davinci-002", "temperature=0.7")


def test_distilling_step_by_step(tmp_path):
    """Completions are joined by the id or the question of the rows that were released with them."""
    write(
        tmp_path / "cqa/cqa_train.json", [{"id": "k1", "question": "?"}, {"question": "What is climbed?"}], lines=True
    )
    write(tmp_path / "cqa/llm/train_CoT_0.json", ["Heat does it. So the answer is (a) kettle.\n\nQ: And"])
    write(tmp_path / "cqa/llm/train_CoT_1.json", ["Rungs help. So the answer is ladder.\n\n"])
    rows, job = importing(tmp_path / "cqa/llm/train_CoT_*.json", "distilling_step_by_step")
    assert short(rows) == [A, B]
    assert tmp_path / "cqa/cqa_train.json" in [Path(file) for file in job.files]
    rows, _ = importing(tmp_path / "cqa/llm/train_CoT_1.json", "distilling_step_by_step")
    assert short(rows) == [B], "a single shard is joined at its offset"
    (tmp_path / "cqa/llm/train_CoT_0.json").unlink()
    with pytest.raises(InputError, match="train_CoT_0.json is missing"):
        importing(tmp_path / "cqa/llm/train_CoT_1.json", "distilling_step_by_step")


def batch(custom_id: str, *texts: str, **more: Any) -> dict[str, Any]:
    """One line of batch results."""
    body = {"id": f"cmpl-{custom_id}", "object": "chat.completion", "model": "gpt-x", "choices": []}
    body["usage"] = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    for i, text in enumerate(texts):
        message = {"role": "assistant", "content": text, "refusal": None}
        body["choices"].append({"index": i, "message": message, "logprobs": None, "finish_reason": "stop"})
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": None, **more}


def test_openai_batch(tmp_path):
    """A body with n choices gives n samples; the sample index in `custom_id` is retained."""
    many = batch("home/k1", COMPLETION_A, "So the answer is: (b)", COMPLETION_A)
    many["response"]["body"]["choices"][2]["finish_reason"] = "length"
    rows, _ = importing(
        write(tmp_path / "b.jsonl", [batch("home/k2#5", COMPLETION_B), many], lines=True), "openai_batch"
    )
    assert short(rows) == [("k2", 5, *B[2:]), A, ("k1", 1, "", "(b)", False), ("k1", 2, *A[2:])]
    assert [r.finish_reason for r in rows] == ["stop", "stop", "stop", "length"]
    assert [(r.num_tokens, r.model) for r in rows[:2]] == [(9, "gpt-x"), (0, "gpt-x")]
    twice = [batch("k1#0", COMPLETION_A, COMPLETION_A), batch("k1#1", COMPLETION_A, COMPLETION_A)]
    rows, _ = importing(write(tmp_path / "b.jsonl", twice, lines=True), "openai_batch")
    assert [r.sample_index for r in rows] == [0, 1, 2, 3]


def test_openai_responses(tmp_path):
    chat = batch("x", COMPLETION_A)["response"]["body"] | {"metadata": {"question_id": "k1"}}
    chat["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -0.5}]}
    completion = {"id": "c", "object": "text_completion", "model": "m", "choices": []}
    completion["choices"] = [
        {"index": 0, "text": COMPLETION_B, "finish_reason": "length", "logprobs": {"token_logprobs": [-2]}}
    ]
    with_request = {"request": {"messages": [{"role": "user", "content": LADDER}]}, "response": completion}
    rows, _ = importing(write(tmp_path / "r.json", [chat, with_request]), "openai_responses")
    assert short(rows) == [A, B]
    assert [(r.logprob, r.num_tokens, r.finish_reason) for r in rows] == [(-1.5, 2, "stop"), (-2.0, 1, "length")]
    path = write(tmp_path / "r.jsonl", [completion], lines=True)
    with pytest.raises(InputError, match=r"r.jsonl line 1: names no question.*option 'ids'"):
        importing(path, "openai_responses")
    (tmp_path / "ids.txt").write_text("home/k2\n")
    assert short(importing(path, "openai_responses", ids=str(tmp_path / "ids.txt"))[0]) == [B]
    path.write_text(json.dumps(chat, indent=2))
    assert short(importing(path.rename(tmp_path / "one.json"), "openai_responses")[0]) == [A]


def test_reasoning_content_becomes_a_thinking_block(tmp_path):
    row = batch("k1", "So the answer is: (a)")
    row["response"]["body"]["choices"][0]["message"]["reasoning_content"] = "Heat does it."
    path = write(tmp_path / "b.jsonl", [row], lines=True)
    with pytest.raises(InputError, match="option 'think'"):
        importing(path, "openai_batch")
    assert short(importing(path, "openai_batch", think="rationale")[0]) == [A]


def test_vllm(tmp_path):
    outputs = [
        {"index": i, "text": COMPLETION_A, "token_ids": [5, 6], "cumulative_logprob": -1.25, "finish_reason": reason}
        for i, reason in enumerate(("stop", "length", None))
    ]
    dump = {
        "request_id": "0",
        "prompt": f"Q: {KETTLE}\nA:",
        "prompt_token_ids": [1],
        "outputs": outputs,
        "finished": True,
    }
    again = dump | {"outputs": outputs[:1]}
    run_batch = batch("home/train/k2#1", COMPLETION_B)
    rows, _ = importing(write(tmp_path / "v.jsonl", [dump, again, run_batch], lines=True), "vllm")
    assert [(r.question_id[-2:], r.sample_index) for r in rows] == [
        ("k1", 0),
        ("k1", 1),
        ("k1", 2),
        ("k1", 3),
        ("k2", 1),
    ]
    assert [r.finish_reason for r in rows] == ["stop", "length", "length", "stop", "stop"]
    assert (rows[0].logprob, rows[0].num_tokens) == (-1.25, 2)


def test_distilabel(tmp_path):
    grouped = {
        "instruction": KETTLE,
        "generation": [COMPLETION_A, None, COMPLETION_A],
        "model_name": "m",
        "distilabel_metadata": [{}],
    }
    single = {"instruction": LADDER, "generation": COMPLETION_B, "model_name": "m", "distilabel_metadata": {}}
    merged = {"instruction": LADDER, "generations": [COMPLETION_B, COMPLETION_B], "model_name": ["m", "n"]}
    path = write(tmp_path / "d.jsonl", [grouped, single, merged], lines=True)
    rows, job = importing(path, "distilabel", skip_bad=True)
    assert short(rows) == [A, ("k1", 1, *A[2:]), B, ("k2", 1, *B[2:]), ("k2", 2, *B[2:])]
    assert [r.model for r in rows] == ["m", "m", "m", "m", "n"]
    assert job.ledger.to_json()["total"]["skipped"] == {"failed": 1}


def test_open_r1(tmp_path):
    """A failed generation does not affect its row, and rows with equal questions are not merged."""
    row = {"uuid": "5", "problem": KETTLE, "answer": "A", "source": "x", "api_metadata": [{}, {}, {}]}
    row |= {"generations": [f"<think>Heat does it.</think>{COMPLETION_A}", "", "<think>Heat"]}
    row |= {"finish_reasons": ["stop", "stop", "length"], "correctness_math_verify": [True, False, False]}
    path = write(tmp_path / "o.jsonl", [row, row], lines=True)
    with pytest.raises(InputError, match=r"o.jsonl line 1 generation 1: the response is empty"):
        importing(path, "open_r1", think="rationale")
    rows, job = importing(path, "open_r1", think="rationale", skip_bad=True)
    assert short(rows)[:2] == [A, ("k1", 1, None, None, False)]
    assert [(r.sample_index, r.finish_reason) for r in rows] == [(0, "stop"), (1, "length"), (2, "stop"), (3, "length")]
    assert job.ledger.to_json()["files"]["o.jsonl"]["skipped"] == {
        "empty text": {"rows": 2, "first": [f"{path} line {n} generation 1" for n in (1, 2)]}
    }


def test_open_r1_as_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"problem": KETTLE, "generations": [COMPLETION_A, COMPLETION_A]},
        {"problem": LADDER, "generations": [COMPLETION_B]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "o.parquet")
    assert short(importing(tmp_path / "o.parquet", "open_r1")[0]) == [A, ("k1", 1, *A[2:]), B]


def test_sharegpt(tmp_path):
    turns = [("system", "Be kind."), ("human", KETTLE), ("gpt", COMPLETION_A)]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    assert short(importing(write(tmp_path / "s.json", [row]), "sharegpt")[0]) == [A]


def test_prompt_completion(tmp_path):
    rows_in_file = [
        {"prompt": f"Q: {KETTLE}\nA:", "completion": f" {COMPLETION_A}\n\n"},
        {
            "prompt": [{"role": "user", "content": f"Think well!\n{LADDER}\nThen answer."}],
            "completion": [{"role": "assistant", "content": COMPLETION_B}],
        },
        {"messages": [{"role": "user", "content": LADDER}, {"role": "assistant", "content": COMPLETION_B}]},
    ]
    path = write(tmp_path / "p.jsonl", rows_in_file, lines=True)
    rows, _ = importing(path, "prompt_completion", prompt="Think well! {question} Then answer.")
    assert short(rows) == [A, B, ("k2", 1, *B[2:])]
    with pytest.raises(InputError, match=r"p.jsonl line 2: none of the config's 3 questions has the text 'Think well!"):
        importing(path, "prompt_completion")


def test_own_responses(tmp_path):
    row = Response("home/train/k1", 4, COMPLETION_A, None, None, None, "length", -2.5, 6, "opt", "greedy")
    foreign = Response("home/train/k2", 0, "It is B", "Rungs help.", "(b)", True, "stop", 0.0, 0, "m", "")
    rows, _ = importing(write(tmp_path / "r.jsonl", [vars(row), vars(foreign)], lines=True), "responses")
    assert short(rows) == [("k1", 4, *A[2:]), B]
    assert (rows[0].finish_reason, rows[0].logprob, rows[0].model, rows[0].sampling) == (
        "length",
        -2.5,
        "opt",
        "greedy",
    )


def test_every_importer_has_a_test():
    text = Path(__file__).read_text()
    assert [name for name in IMPORTERS if f'"{name}"' not in text] == []
