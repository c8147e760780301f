"""Evaluations in the layout of lm-eval 0.4: results_DATE.json, and samples_TASK_DATE.jsonl with one line per question.

Tools that read lm-eval's output read these files too, such as its own `zeno_visualize` and leaderboards. Every question
set is a task with the metric `acc`. Hashes are those of lm-eval: SHA-256 of the document, the prompt and the target.
"""

import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from scotd_jax import __version__
from scotd_jax.atomic import write_text
from scotd_jax.evaluation.scoring import group_by_question
from scotd_jax.records import Prompt, Question, Response

INVALID = "[invalid]"  # lm-eval's filtered response where no answer could be parsed


class EvaluatedSet(NamedTuple):
    """The responses of a model to one question set, with the prompt of every question by its id."""

    questions: Sequence[Question]
    responses: Sequence[Response]
    prompts: Mapping[str, Prompt]


def write_lm_eval_files(
    folder: epath.Path, model: str, sets: Mapping[str, EvaluatedSet], few_shot: int = 0, max_new_tokens: int = 0
) -> None:
    """Writes FOLDER anew.

    Args:
      folder: the folder, of this evaluation alone.
      model: name of the evaluated model.
      sets: task name -> the evaluated set; names may not contain a slash.
      few_shot: number of few-shot examples in the prompts.
      max_new_tokens: limit of the length of responses.
    """
    if folder.exists():
        folder.rmtree()
    date = datetime.datetime.now()
    stamp = date.isoformat().replace(":", "-")
    results: dict[str, Any] = {
        name: {}
        for name in ("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
    }
    hashes = {}
    for task, evaluated in sets.items():
        samples = _samples(evaluated, max_new_tokens)
        values = [sample["acc"] for sample in samples]
        n, mean = len(values), sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(1, n - 1)
        results["results"][task] = {
            "name": task,
            "alias": task,
            "sample_len": n,
            "acc,none": mean,
            "acc_stderr,none": math.sqrt(variance / n),
        }
        metric = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
        results["group_subtasks"][task] = []
        results["configs"][task] = {"task": task, "output_type": "generate_until", "metric_list": [metric]}
        results["versions"][task] = 1.0
        results["n-shot"][task] = few_shot
        results["higher_is_better"][task] = {"acc": True}
        results["n-samples"][task] = {"original": n, "effective": n}
        hashes[task] = _hash("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples))
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        write_text(folder / f"samples_{task}_{stamp}.jsonl", "".join(lines))
    results["config"] = {"model": "scotd_jax", "model_args": model}
    results |= {"date": date.timestamp(), "git_hash": None, "scotd_jax_version": __version__, "task_hashes": hashes}
    results |= {"model_source": "scotd_jax", "model_name": model, "model_name_sanitized": model.replace("/", "__")}
    write_text(folder / f"results_{stamp}.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def _samples(evaluated: EvaluatedSet, max_new_tokens: int) -> list[dict[str, Any]]:
    grouped = group_by_question(evaluated.questions, evaluated.responses)
    settings = {"until": [], "max_gen_toks": max_new_tokens}
    samples = []
    for number, question in enumerate(evaluated.questions):
        rows = grouped[question.id]
        answers = [INVALID if row.answer is None else row.answer for row in rows]
        doc = {"id": question.id, "question": question.text, "choices": list(question.choices)}
        doc |= {"answer": question.answer, "context": question.context}
        prompt = evaluated.prompts[question.id]
        prompt = prompt if isinstance(prompt, str) else json.dumps(list(prompt), ensure_ascii=False)
        samples.append(
            {
                "doc_id": number,
                "doc": doc,
                "target": question.answer,
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": settings}},
                "resps": [[row.text for row in rows]],
                "filtered_resps": answers if len(answers) == 1 else [answers],
                "filter": "none",
                "metrics": ["acc"],
                "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
                "prompt_hash": _hash(prompt),
                "target_hash": _hash(str(question.answer)),
                "acc": sum(row.correct is True for row in rows) / len(rows),
            }
        )
    return samples


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
