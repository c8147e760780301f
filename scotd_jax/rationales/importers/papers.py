"""Importers of published rationale corpora: QuaRel, OpenBookQA by three teachers, SCoTD and Fine-tune-CoT."""

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

OPENBOOKQA_ANSWER = re.compile(r"answer is[\s:<*(\-]*([A-D])\b")
SCOTD_MARKER = " So the answer is: "


def quarel_davinci003(path: epath.Path, options: ImportOptions) -> ImportResults:
    """QuaRel train by text-davinci-003, five samples per question.

    Source: RationaleMultiRewardDistillation, data/quarel/gpt3.
    File: one JSON object, row number -> {"question", "gold_label", "predicted_label", "predicted_rationale"}.
    Answer: predicted_label; the rationale is a field of its own.
    """
    del options
    return parse_rows(read_json_document(path, dict), _parse_quarel)


def openbookqa_multi(path: epath.Path, options: ImportOptions) -> ImportResults:
    """OpenBookQA train by Gemini, Llama and ChatGPT, at several granularities.

    Source: Distilling-CoT-Reasoning, data/.
    File: one JSON list of {"instruction", "output"}.
    Answer: the letter of the last match of `OPENBOOKQA_ANSWER`; the rationale ends before the sentence of the match.
    """
    del options
    return parse_rows(read_json_document(path, list), _parse_openbookqa)


def scotd_30x(path: epath.Path, options: ImportOptions) -> ImportResults:
    """The corpora of SCoTD for CommonsenseQA, QuaRel and OpenBookQA.

    Source: arXiv 2306.14050, csqa_30x.json, quarel_30x.json and openbook_30x.json.
    File: one JSON list of {"prompt", "response", "score", "index", "rationale", "token_probs", "tokens"}; the last two
      may be missing. The question is the last one of the prompt, which may begin with few-shot examples. `index` (a
      row of the authors' data set) and `score` (their comparison) are not used.
    Answer: as in SCoTD, the text up to the first blank line, after the last `SCOTD_MARKER`.
    """
    del options
    return parse_rows(read_json_document(path, list), _parse_scotd)


def reasoning_teacher(path: epath.Path, options: ImportOptions) -> ImportResults:
    """The CompletionDataset of Fine-tune-CoT.

    Source: arXiv 2212.10071.
    File: one JSON object {"metadata", "data": {sample_index: [completion, ...]}}. sample_index is a row of the authors'
      data set and is not used; completion_index is the sample index.
    Answer: in two-step data (zero-shot chain of thought), "reasoning_completion" is the rationale and "completion" the
      answer; otherwise the task's prompt format parses "completion".
    """
    del options
    fields: dict[str | None, SourceRow] = {}
    for field in read_json_document(path, dict):
        if isinstance(field, BadRow):  # the whole document
            yield field
            return
        fields[field.key] = field
    if "data" not in fields:
        detail = 'expected an object with the fields "metadata" and "data"'
        yield BadRow(str(path), 0, "missing field", detail, rest_lost=True)
        return
    metadata = fields["metadata"].value if "metadata" in fields else None
    metadata = metadata if isinstance(metadata, dict) else {}
    temperature = metadata.get("reasoning_temperature", metadata.get("temperature"))
    sampling = f"temperature={temperature:g}" if isinstance(temperature, (int, float)) else ""
    parse = functools.partial(_parse_completion, model=str(metadata.get("base_model") or ""), sampling=sampling)
    yield from parse_rows(_completions(path, fields["data"]), parse)


def _parse_quarel(row: SourceRow) -> Iterator[ImportedResponse]:
    yield row.response(
        None,
        question_text=row.required("question", str),
        parsed=True,
        rationale=row.required("predicted_rationale", str),
        answer=row.required("predicted_label", str),
        gold=row.required("gold_label", str),
        model="text-davinci-003",
    )


def _parse_openbookqa(row: SourceRow) -> Iterator[ImportedResponse]:
    output = row.required("output", str)
    parsed = answer_extraction.by_sentence(output, OPENBOOKQA_ANSWER)
    question = row.required("instruction", str)
    yield row.response(output, question_text=question, parsed=True, rationale=parsed.rationale, answer=parsed.answer)


def _parse_scotd(row: SourceRow) -> Iterator[ImportedResponse]:
    text = answer_extraction.first_paragraph(row.required("response", str))
    rationale, found, answer = text.rpartition(SCOTD_MARKER)
    row.required("rationale", str)  # must exist, but is not used: it repeats the text before the marker
    logprobs, tokens = row.optional("token_probs", list), row.optional("tokens", list)
    are_logprobs = bool(logprobs) and all(isinstance(p, (int, float)) and p <= 0 for p in logprobs)
    yield row.response(
        text,
        question_text=row.required("prompt", str).rpartition("Q: ")[2],
        parsed=True,
        rationale=rationale.strip() if found else None,
        answer=answer.strip() if found else None,
        logprob=float(sum(logprobs)) if are_logprobs else None,
        num_tokens=len(tokens) if tokens else None,
    )


def _completions(path: epath.Path, data: SourceRow) -> Iterator[SourceRow | BadRow]:
    """Yields every completion in the field "data" as one row."""
    if not isinstance(data.value, dict):
        detail = "expected an object of sample_index -> list of completions"
        yield BadRow(data.where, 0, "wrong form", detail, rest_lost=True)
        return
    number = 0
    for key, completions in data.value.items():
        for i, value in enumerate(completions if isinstance(completions, list) else [completions]):
            yield SourceRow(f"{path} row {number + 1} (data {key!r}, completion {i})", number, value, key)
            number += 1


def _parse_completion(row: SourceRow, model: str, sampling: str) -> Iterator[ImportedResponse]:
    if row.key != str(row.required("sample_index", int)):
        raise BadRowError("wrong id", f"sample_index is {row.required('sample_index')} under the key {row.key!r}")
    in_two_steps = row.has("reasoning_completion")
    reasoning, completion = row.optional("reasoning_completion", str), row.required("completion", str)
    if in_two_steps and not reasoning.strip():
        raise BadRowError("empty rationale", "the rationale is empty; expected a text in 'reasoning_completion'")
    finish_reason = row.optional("reasoning_finish_reason" if in_two_steps else "finish_reason", str)
    yield row.response(
        f"{reasoning.strip()} {completion.strip()}" if in_two_steps else completion,
        question_text=row.required("question", str),
        sample_index=row.required("completion_index", int),
        parsed=in_two_steps,
        rationale=reasoning.strip() if in_two_steps else None,
        answer=completion.strip().removesuffix(".").strip() if in_two_steps else None,
        gold=row.optional("answer", str),
        finish_reason="length" if finish_reason == "length" else "stop",
        model=model or None,
        sampling=sampling or None,
    )
