"""Rationale corpora of published work: QuaRel by text-davinci-003, OpenBookQA by three teachers, SCoTD, Fine-tune-CoT.

Each has its own rule for answers, stated at its function; counts are those of the official files.
"""

import functools
import re
from collections.abc import Iterator

from etils import epath

from scotd_jax.rationales.importers import answer_extraction
from scotd_jax.rationales.importers.imported import (
    BadRow,
    BadRowError,
    ImportedResponse,
    ImportOptions,
    ImportResults,
    SourceRow,
    parse_rows,
)
from scotd_jax.rationales.importers.row_readers import read_json_document

OPENBOOKQA = re.compile(r"answer is[\s:<*(\-]*([A-D])\b")
SCOTD = " So the answer is: "


def quarel_davinci003(path: epath.Path, options: ImportOptions) -> ImportResults:
    """QuaRel train, five samples per question (RationaleMultiRewardDistillation, data/quarel/gpt3).

    One JSON object keyed by row number; rationale and label are fields of their own.
    """
    del options
    return parse_rows(read_json_document(path, dict), _quarel)


def _quarel(row: SourceRow) -> Iterator[ImportedResponse]:
    yield row.response(
        None,
        question_text=row.required("question", str),
        parsed=True,
        rationale=row.required("predicted_rationale", str),
        answer=row.required("predicted_label", str),
        gold=row.required("gold_label", str),
        model="text-davinci-003",
    )


def openbookqa_multi(path: epath.Path, options: ImportOptions) -> ImportResults:
    """OpenBookQA train by Gemini, Llama and ChatGPT at several granularities (Distilling-CoT-Reasoning, data/).

    One JSON list of {"instruction", "output"}. The answer is the letter of the last match of `OPENBOOKQA`; the
    rationale ends before the sentence that holds it.
    """
    del options
    return parse_rows(read_json_document(path, list), _openbookqa)


def _openbookqa(row: SourceRow) -> Iterator[ImportedResponse]:
    output = row.required("output", str)
    read = answer_extraction.by_sentence(output, OPENBOOKQA)
    question = row.required("instruction", str)
    yield row.response(output, question_text=question, parsed=True, rationale=read.rationale, answer=read.answer)


def scotd_30x(path: epath.Path, options: ImportOptions) -> ImportResults:
    """SCoTD's own corpora csqa_30x.json, quarel_30x.json, openbook_30x.json (arXiv 2306.14050).

    One JSON list of {"prompt", "response", "score", "index", "rationale", "token_probs", "tokens"}; the last two may
    be missing. The question is the last one of the prompt, which may open with worked examples. `index` is a row of
    the authors' data set and `score` their comparison: neither is used. Read as SCoTD does: up to the first blank
    line, the answer after the last marker.
    """
    del options
    return parse_rows(read_json_document(path, list), _scotd)


def _scotd(row: SourceRow) -> Iterator[ImportedResponse]:
    text = answer_extraction.first_paragraph(row.required("response", str))
    rationale, found, answer = text.rpartition(SCOTD)
    row.required("rationale", str)
    probabilities, tokens = row.optional("token_probs", list), row.optional("tokens", list)
    known = bool(probabilities) and all(isinstance(p, (int, float)) and p <= 0 for p in probabilities)
    yield row.response(
        text,
        question_text=row.required("prompt", str).rpartition("Q: ")[2],
        parsed=True,
        rationale=rationale.strip() if found else None,
        answer=answer.strip() if found else None,
        logprob=float(sum(probabilities)) if known else None,
        num_tokens=len(tokens) if tokens else None,
    )


def reasoning_teacher(path: epath.Path, options: ImportOptions) -> ImportResults:
    """The CompletionDataset of Fine-tune-CoT (arXiv 2212.10071).

    One JSON object {"metadata", "data": {sample_index: [completion, ...]}}. sample_index is a row of the authors' data
    set and is not used; completion_index is the sample's number. Where there is a "reasoning_completion" (zero-shot
    chain of thought in two steps) it is the rationale and "completion" the answer; else "completion" is the text.
    """
    del options
    model, sampling, parts = "", "", set()
    for part in read_json_document(path, dict):
        parts.add("data" if isinstance(part, BadRow) else part.key)
        if isinstance(part, BadRow):
            yield part
        elif part.key == "metadata" and isinstance(part.value, dict):
            model = str(part.value.get("base_model") or "")
            temperature = part.value.get("reasoning_temperature", part.value.get("temperature"))
            sampling = f"temperature={temperature:g}" if isinstance(temperature, (int, float)) else ""
        elif part.key == "data":
            yield from parse_rows(
                _completions(path, part), functools.partial(_completion, model=model, sampling=sampling)
            )
    if "data" not in parts:
        yield BadRow(
            str(path), 0, "missing field", 'expected an object with the fields "metadata" and "data"', rest_lost=True
        )


def _completions(path: epath.Path, part: SourceRow) -> Iterator[SourceRow | BadRow]:
    if not isinstance(part.value, dict):
        yield BadRow(
            part.where, 0, "wrong form", "expected an object of sample_index -> list of completions", rest_lost=True
        )
        return
    number = 0
    for key, completions in part.value.items():
        for place, value in enumerate(completions if isinstance(completions, list) else [completions]):
            yield SourceRow(f"{path} row {number + 1} (data {key!r}, completion {place})", number, value, key)
            number += 1


def _completion(row: SourceRow, model: str, sampling: str) -> Iterator[ImportedResponse]:
    if row.key != str(row.required("sample_index", int)):
        raise BadRowError("wrong id", f"sample_index is {row.required('sample_index')} under the key {row.key!r}")
    two_steps = row.has("reasoning_completion")
    reasoning, completion = row.optional("reasoning_completion", str), row.required("completion", str)
    if two_steps and not reasoning.strip():
        raise BadRowError("empty rationale", "the rationale is empty; expected a text in 'reasoning_completion'")
    finish = row.optional("reasoning_finish_reason" if two_steps else "finish_reason", str)
    yield row.response(
        f"{reasoning.strip()} {completion.strip()}" if two_steps else completion,
        question_text=row.required("question", str),
        sample_index=row.required("completion_index", int),
        parsed=two_steps,
        rationale=reasoning.strip() if two_steps else None,
        answer=completion.strip().removesuffix(".").strip() if two_steps else None,
        gold=row.optional("answer", str),
        finish_reason="length" if finish == "length" else "stop",
        model=model or None,
        sampling=sampling or None,
    )
