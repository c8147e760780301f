"""Every importer on broken input: the error names file and row; --skip-bad skips the row and counts it.

One table: for each importer a valid file of three records, and changes that break the second one.
"""

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.import_ledger import ImportLedger
from scotd_jax.rationales.importers.registry import IMPORTERS
from tests.rationales.importers.test_importers import (
    COMPLETION_A,
    COMPLETION_B,
    KETTLE,
    LADDER,
    batch,
    importing,
    write,
)

ROWS = ((KETTLE, COMPLETION_A, "(a)"), (LADDER, COMPLETION_B, "(b)"), (KETTLE, COMPLETION_A, "(a)"))


def responses() -> list[Any]:
    ids = ("home/train/k1", "home/train/k2", "home/train/k3")
    row = {"sample_index": 0, "text": COMPLETION_A, "rationale": None, "answer": None, "correct": None}
    row |= {"finish_reason": "stop", "logprob": -1.0, "num_tokens": 2, "model": "m", "sampling": ""}
    return [{"question_id": id_, **row} for id_ in ids]


def quarel() -> list[Any]:
    return [
        {"question": question, "gold_label": gold, "predicted_label": gold, "predicted_rationale": "Yes."}
        for question, _, gold in ROWS
    ]


def scotd() -> list[Any]:
    return [
        {"prompt": f"Q: {question}\nA:", "response": text, "score": 1.0, "index": 0, "rationale": "Yes."}
        for question, text, _ in ROWS
    ]


def teacher() -> list[Any]:
    completions = [{"question": q, "reasoning_completion": "Yes.", "completion": gold} for q, _, gold in ROWS]
    return [{"sample_index": i, "completion_index": 0 if i else 1, **row} for i, row in enumerate(completions)]


def vllm() -> list[Any]:
    output = {"token_ids": [1], "cumulative_logprob": -1.0, "finish_reason": "stop"}
    return [
        {"request_id": str(i), "prompt": q, "outputs": [{"index": k, "text": text, **output} for k in (0, 1)]}
        for i, (q, text, _) in enumerate(ROWS)
    ]


def palm() -> list[Any]:
    return [f"Yes. So the answer is {gold}.\n\nQ:" for _, _, gold in ROWS]


def keyed(rows: list[Any]) -> dict[str, Any]:
    return {str(i): row for i, row in enumerate(rows)}


def nested(rows: list[Any]) -> dict[str, Any]:
    return {"metadata": {}, "data": {str(row.get("sample_index", 1)): [row] for row in rows}}


def conversation(question: str, answer: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


# importer -> (rows of a valid file, function from the rows to a JSON document; None: the file is JSON lines)
GOOD: dict[str, tuple[list[Any], Callable[[list[Any]], Any] | None]] = {
    "responses": (responses(), None),
    "quarel_davinci003": (quarel(), keyed),
    "openbookqa_multi": (
        [{"instruction": q, "output": f"Yes. The answer is {g[1].upper()}"} for q, _, g in ROWS],
        list,
    ),
    "commonsenseqa_palm540b": (palm(), list),
    "scotd_30x": (scotd(), list),
    "reasoning_teacher": (teacher(), nested),
    "distilling_step_by_step": (palm(), list),
    "openai_batch": ([batch(f"k{i}", text) for i, (_, text, _) in enumerate(ROWS, 1)], None),
    "openai_responses": (
        [
            batch(f"{i}", text)["response"]["body"] | {"metadata": {"question_id": f"k{i}"}}
            for i, (_, text, _) in enumerate(ROWS, 1)
        ],
        None,
    ),
    "vllm": (vllm(), None),
    "distilabel": ([{"instruction": q, "generation": text, "model_name": "m"} for q, text, _ in ROWS], None),
    "open_r1": ([{"problem": q, "generations": [text]} for q, text, _ in ROWS], None),
    "sharegpt": ([conversation(q, text) for q, text, _ in ROWS], list),
    "prompt_completion": ([{"prompt": q, "completion": text} for q, text, _ in ROWS], None),
}

NOT_OURS = "Who sang?"


def drop(*path: Any) -> Callable[[list[Any]], None]:
    """Removes a field of the second row."""

    def change(rows: list[Any]) -> None:
        value = rows[1]
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return change


def put(value: Any, *path: Any) -> Callable[[list[Any]], None]:
    """Replaces a field of the second row."""

    def change(rows: list[Any]) -> None:
        target: Any = rows
        for key in (1, *path)[:-1]:
            target = target[key]
        target[(1, *path)[-1]] = value

    return change


CHOICE = ("response", "body", "choices", 0, "message", "content")
# (importer, kind of error, change, expected message, bin of the ledger)
BROKEN = [
    ("responses", "missing", drop("text"), "field 'text' is missing", "missing field"),
    ("responses", "wrong id", put("home/train/k9", "question_id"), "has the id 'home/train/k9'", "no such question"),
    ("responses", "duplicate", put("home/train/k1", "question_id"), "sample 0 of question", "duplicate"),
    ("responses", "empty", put(" ", "text"), "the response is empty", "empty text"),
    ("quarel_davinci003", "missing", drop("predicted_label"), "field 'predicted_label' is missing", "missing field"),
    ("quarel_davinci003", "wrong id", put(NOT_OURS, "question"), "has the text 'Who sang?'", "no such question"),
    ("quarel_davinci003", "wrong gold", put("(a)", "gold_label"), "the row's gold answer is '(a)'", "gold differs"),
    ("quarel_davinci003", "empty", put("", "predicted_rationale"), "the rationale is empty", "empty rationale"),
    ("openbookqa_multi", "missing", drop("output"), "field 'output' is missing", "missing field"),
    ("openbookqa_multi", "wrong id", put(f"Q: {NOT_OURS}", "instruction"), "Who sang?", "no such question"),
    ("openbookqa_multi", "empty", put("\n", "output"), "the response is empty", "empty text"),
    ("commonsenseqa_palm540b", "missing", put(None), "expected a completion", "wrong form"),
    ("commonsenseqa_palm540b", "empty", put(" \n\nQ: So"), "the response is empty", "empty text"),
    ("scotd_30x", "missing", drop("rationale"), "field 'rationale' is missing", "missing field"),
    ("scotd_30x", "wrong id", put("Q: Who sang?\nA:", "prompt"), "Who sang?", "no such question"),
    ("scotd_30x", "empty", put("\n\n", "response"), "the response is empty", "empty text"),
    ("reasoning_teacher", "missing", drop("completion"), "field 'completion' is missing", "missing field"),
    ("reasoning_teacher", "wrong id", put(NOT_OURS, "question"), "Who sang?", "no such question"),
    ("reasoning_teacher", "empty", put("", "reasoning_completion"), "the rationale is empty", "empty rationale"),
    ("distilling_step_by_step", "missing", put(3), "expected a completion", "wrong form"),
    ("distilling_step_by_step", "empty", put(""), "the response is empty", "empty text"),
    ("openai_batch", "missing", drop("custom_id"), "field 'custom_id' is missing", "missing field"),
    ("openai_batch", "wrong id", put("k9#1", "custom_id"), "has the id 'k9'", "no such question"),
    ("openai_batch", "duplicate", put("batch_req_k1", "id"), "'batch_req_k1 choice 0' came before", "duplicate"),
    ("openai_batch", "empty", put("", *CHOICE), "the response is empty", "empty text"),
    ("openai_batch", "refused", put(None, *CHOICE), "the message has no content", "failed"),
    ("openai_batch", "failed", put({"code": "server_error"}, "error"), "the request 'k2' failed", "failed"),
    ("openai_batch", "finish", put(3, *CHOICE[:4], "finish_reason"), "'finish_reason' should be str", "wrong form"),
    ("openai_batch", "status", put(500, "response", "status_code"), "the status 500; expected 200", "failed"),
    ("openai_responses", "missing", drop("choices"), "field 'choices' is missing", "missing field"),
    ("openai_responses", "wrong id", put("k9", "metadata", "question_id"), "has the id 'k9'", "no such question"),
    ("openai_responses", "duplicate", put("cmpl-1", "id"), "came before", "duplicate"),
    ("openai_responses", "empty", put("", *CHOICE[2:]), "the response is empty", "empty text"),
    ("vllm", "missing", drop("outputs"), "field 'outputs' is missing", "missing field"),
    ("vllm", "wrong id", put(NOT_OURS, "prompt"), "Who sang?", "no such question"),
    ("vllm", "duplicate", put(0, "outputs", 1, "index"), "the output of index 0 comes twice", "duplicate"),
    ("vllm", "empty", put("", "outputs", 1, "text"), "the response is empty", "empty text"),
    ("distilabel", "missing", drop("instruction"), "field 'instruction' is missing", "missing field"),
    ("distilabel", "wrong id", put(NOT_OURS, "instruction"), "Who sang?", "no such question"),
    ("distilabel", "failed", put(None, "generation"), "expected a text or a conversation", "failed"),
    ("open_r1", "missing", drop("generations"), "field 'generations' is missing", "missing field"),
    ("open_r1", "wrong id", put(NOT_OURS, "problem"), "Who sang?", "no such question"),
    ("open_r1", "lists", put(["stop", "stop"], "finish_reasons"), "2 finish reasons for 1 gen", "wrong form"),
    ("open_r1", "objects", put([[3, "x"]], "generations"), "with an answer, found [3, 'x']", "failed"),
    ("open_r1", "empty", put([""], "generations"), "the response is empty", "empty text"),
    ("sharegpt", "missing", drop("conversations", 0, "value"), 'expected turns {"from"', "wrong form"),
    ("sharegpt", "wrong id", put(NOT_OURS, "conversations", 0, "value"), "Who sang?", "no such question"),
    ("sharegpt", "empty", put("", "conversations", 1, "value"), "the response is empty", "empty text"),
    ("prompt_completion", "missing", drop("completion"), "field 'completion' is missing", "missing field"),
    ("prompt_completion", "wrong id", put(NOT_OURS, "prompt"), "Who sang?", "no such question"),
    ("prompt_completion", "empty", put("", "completion"), "the response is empty", "empty text"),
]


def write_files(folder: Path, importer: str, rows: list[Any]) -> Path:
    """Writes a file for the importer, and the files that the importer reads beside it; returns its path."""
    (folder / "train_ids.txt").write_text("k1\nk2\nk3\n")
    document = GOOD[importer][1]
    if importer == "distilling_step_by_step":
        write(folder / "cqa/cqa_train.json", [{"id": f"k{i}"} for i in (1, 2, 3)], lines=True)
        return write(folder / "cqa/llm/train_CoT_0.json", rows)
    if document is None:
        return write(folder / "train_CoT_0.jsonl", rows, lines=True)
    return write(folder / "train_CoT_0.json", document(rows))


@pytest.mark.parametrize(
    ("importer", "change", "message", "reason"),
    [pytest.param(name, *rest, id=f"{name}-{wrong}") for name, wrong, *rest in BROKEN],
)
def test_broken_row_is_reported_or_skipped(tmp_path, importer, change, message, reason):
    rows = copy.deepcopy(GOOD[importer][0])
    change(rows)
    path = write_files(tmp_path, importer, rows)
    with pytest.raises(InputError) as refused:
        importing(path, importer)
    assert str(refused.value).startswith(f"{path} {'line' if GOOD[importer][1] is None else 'row'} 2")
    assert message in str(refused.value)
    assert "--skip-bad" in str(refused.value)
    kept, job = importing(path, importer, skip_bad=True)
    ledger = job.ledger.to_json()["files"][path.name]
    ((bin_, skipped),) = ledger["skipped"].items()
    assert bin_ == reason
    assert skipped["first"][0].startswith(f"{path} ")
    assert ledger["read"] == len(kept) + skipped["rows"]
    assert len(kept) >= 2


def test_bad_choice_does_not_affect_the_others(tmp_path):
    row = batch("k1", COMPLETION_A)
    good = row["response"]["body"]["choices"][0]
    bad = [good | {"finish_reason": 3}, good | {"message": {"content": 3}}, good | {"message": [3]}, 3, None]
    row["response"]["body"]["choices"] = [good, *bad, good]
    path = write(tmp_path / "b.jsonl", [row], lines=True)
    with pytest.raises(InputError, match="b.jsonl line 1 choice 1: field 'finish_reason' should be str, found 3"):
        importing(path, "openai_batch")
    kept, job = importing(path, "openai_batch", skip_bad=True)
    assert [row.text for row in kept] == [COMPLETION_A, COMPLETION_A]
    assert job.ledger.to_json()["total"]["skipped"] == {"wrong form": 5}


def test_message_about_a_row_of_many_keys_is_short(tmp_path):
    row = {f"key {i} {'x' * 500}": i for i in range(5000)}
    path = write(tmp_path / "p.jsonl", [row], lines=True)
    with pytest.raises(InputError, match="field 'prompt' is missing; found key 0 x.*5,000 in all") as refused:
        importing(path, "prompt_completion")
    assert len(str(refused.value)) < 1000


def test_table_covers_every_importer_and_kind_of_error():
    for importer in IMPORTERS:
        errors = {error for name, error, *_ in BROKEN if name == importer}
        assert "missing" in errors
        assert "empty" in errors or "failed" in errors
        assert "wrong id" in errors or importer in ("commonsenseqa_palm540b", "distilling_step_by_step"), importer


@pytest.mark.parametrize("importer", IMPORTERS)
def test_truncated_file(tmp_path, importer):
    """JSON lines lose one row, a document loses all of them."""
    good, document = GOOD[importer]
    path = write_files(tmp_path, importer, good)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=f"{path.name}( line 3)?: not JSON"):
        importing(path, importer)
    if document is None:
        kept, job = importing(path, importer, skip_bad=True)
        assert {r.question_id for r in kept} == {"home/train/k1", "home/train/k2"}
        assert job.ledger.to_json()["total"]["skipped"] == {"broken": 1}
        return
    with pytest.raises(InputError, match="cannot be assigned|no row could be imported"):
        importing(path, importer, skip_bad=True)


@pytest.mark.slow
def test_truncated_gzip_file(tmp_path):
    rows = [{"prompt": KETTLE, "completion": f"{i}. {COMPLETION_A}"} for i in range(2000)]
    path = write(tmp_path / "p.jsonl.gz", rows, lines=True)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"p.jsonl.gz line 1[89]\d\d: the file is truncated"):
        importing(path, "prompt_completion")
    kept, job = importing(path, "prompt_completion", skip_bad=True)
    assert 1800 <= len(kept) < 2000
    assert [r.text for r in kept] == [row["completion"] for row in rows[: len(kept)]]
    assert job.ledger.to_json()["total"]["skipped"] == {"broken": 1}
    path = write(tmp_path / "q.json.gz", rows)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"q.json.gz: the file is truncated"):
        importing(path, "openbookqa_multi")


def test_broken_document_among_several_is_one_bad_row(tmp_path):
    rows = GOOD["openbookqa_multi"][0]
    for name in ("a.json", "b.json"):
        write(tmp_path / name, rows)
    (tmp_path / "a.json").write_text("[{")
    kept, job = importing(tmp_path / "*.json", "openbookqa_multi", skip_bad=True)
    ledger = job.ledger.to_json()
    assert len(kept) == 3
    assert ledger["files"]["a.json"]["skipped"]["broken"] == {"rows": 1, "first": [str(tmp_path / "a.json")]}
    assert ledger["total"]["read"] == 4
    assert job.ledger.summary() == "3 of 4 rows imported (skipped: 1 broken)"


@pytest.mark.parametrize(
    ("importer", "text", "message"),
    [
        ("quarel_davinci003", '{"1": {}, "1": {}}', "x.json: the key '1' comes twice in one object"),
        ("quarel_davinci003", "[]", "x.json: found a JSON list; expected one JSON object"),
        ("openbookqa_multi", "{}", "x.json: found a JSON dict; expected one JSON list"),
        ("openbookqa_multi", "[3]", "x.json row 1: expected a JSON object with the field 'output', found 3"),
        ("scotd_30x", '[{"response": 3}]', "x.json row 1: field 'response' should be str, found 3"),
        ("reasoning_teacher", '{"metadata": {}}', 'x.json: expected an object with the fields "metadata" and "data"'),
        ("reasoning_teacher", '{"data": []}', "expected an object of sample_index -> list of completions"),
        ("reasoning_teacher", '{"data": {"1": [{"sample_index": 2}]}}', "sample_index is 2 under the key '1'"),
        ("prompt_completion", "\xff", "x.json line 1: not UTF-8"),
        ("prompt_completion", "", "x.json: no row could be imported"),
        ("prompt_completion", "nonsense", "x.json line 1: not JSON"),
        ("openai_responses", '{"id": "x", "choices": []}', "x.json line 1: the response has no choices"),
        ("open_r1", '{"problem": "x", "generations": []}', "x.json line 1: the row has no generations"),
        ("sharegpt", '[{"conversations": []}]', "expected a conversation that ends with an answer"),
        ("distilling_step_by_step", '["x"]', "its strings name no question, and NAME_SPLIT.json does not exist"),
        ("vllm", '{"outputs": []}', "x.json line 1: the request has no outputs"),
        (
            "open_r1",
            '{"problem": "x", "generations": ["y"], "correctness_math": [true, false]}',
            "'correctness_math' holds 2 values for 1 generations",
        ),
    ],
)
def test_other_broken_files(tmp_path, importer, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as refused:
        importing(path, importer)
    assert message in str(refused.value)


def test_broken_files_beside_the_completions_of_distilling_step_by_step(tmp_path):
    """A row of questions, or an earlier shard, that cannot be read would shift the join of all later completions."""
    path = write_files(tmp_path, "distilling_step_by_step", palm())
    later = write(path.with_name("train_CoT_1.json"), palm()[:1])
    with pytest.raises(InputError, match=r"string 4 of all shards, but there are 3 rows in .*cqa_train.json"):
        importing(later, "distilling_step_by_step")
    path.write_text("[3")
    with pytest.raises(InputError, match=r"train_CoT_0.json.*it decides where the rows of train_CoT_1.json begin"):
        importing(later, "distilling_step_by_step")
    (tmp_path / "cqa/cqa_train.json").write_text("nonsense")
    with pytest.raises(InputError, match=r"cqa_train.json line 1: not JSON"):
        importing(later, "distilling_step_by_step")


def test_rows_of_distilling_step_by_step_may_be_named(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"id": f"k{i}"} for i in (1, 2, 3)], lines=True)
    kept, _ = importing(write(tmp_path / "x.json", palm()), "distilling_step_by_step", rows=str(rows))
    assert [row.question_id[-2:] for row in kept] == ["k1", "k2", "k3"]


def test_duplicate_completion_of_reasoning_teacher(tmp_path):
    row = teacher()[0]
    path = write(tmp_path / "d.json", {"metadata": {}, "data": {"0": [row, row]}})
    with pytest.raises(InputError, match=r"row 2 \(data '0', completion 1\): sample 1 of question .* came before"):
        importing(path, "reasoning_teacher")


def test_file_that_is_no_parquet(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="x.parquet row 1: not a Parquet file"):
        importing(tmp_path / "x.parquet", "open_r1")


def test_mismatched_file_of_ids_is_refused(tmp_path):
    path = write(tmp_path / "train_CoT_0.json", palm())
    for text, message in [
        ("k1\nk2\nk3\nhome/k1\n", "4 ids for 3 records"),
        ("k1\nk2\n", "record 3, but .* has 2 ids"),
        ("k1\nk2\nk1\n", "line 3: 'k1' is also in line 1"),
        ("k1\nk2\nk9\n", "row 3: none of .* has the id 'k9'"),
    ]:
        (tmp_path / "train_ids.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            importing(path, "commonsenseqa_palm540b")
    with pytest.raises(InputError, match="other.txt: no such file"):
        importing(path, "commonsenseqa_palm540b", ids=str(tmp_path / "other.txt"))


def test_import_ledger_detects_an_unaccounted_row():
    ledger = ImportLedger(["f"])
    ledger.count_read("f")
    with pytest.raises(RuntimeError, match="f: 1 rows read, 0 imported, 0 skipped"):
        ledger.to_json()


def test_gzipped_document_and_lines_give_equal_responses(tmp_path):
    rows = GOOD["sharegpt"][0]
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    write(tmp_path / "b.jsonl", rows, lines=True)
    first, second = (importing(tmp_path / name, "sharegpt", model="m")[0] for name in ("a.json.gz", "b.jsonl"))
    assert first == second
