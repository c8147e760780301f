"""README.md of an exported model: Markdown with the YAML front matter of the Hub.

A card says what it is, how to use it, how it was made, how well it does (with intervals) and where it should not be
trusted. What is not known, such as a licence, is left out rather than guessed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scotd_jax.evaluation.statistics import Estimate
from scotd_jax.records import Prompt
from scotd_jax.reporting.tables import percent, span

_DECODER_ONLY = ("AutoModelForCausalLM", "text-generation")
_CLASSES = {
    "opt": _DECODER_ONLY,
    "t5": ("AutoModelForSeq2SeqLM", "text2text-generation"),
    "decoder": _DECODER_ONLY,
}


def model_card(
    name: str,
    *,
    kind: Literal["opt", "t5", "decoder"],
    about: str,
    prompt: Prompt,
    results: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, str],
    stops: Sequence[str] = (),
    max_new_tokens: int = 256,
    base_model: str = "",
    license: str = "",
    datasets: Sequence[str] = (),
) -> str:
    """Card of an exported student.

    prompt: a whole example prompt, a text or the turns of a chat;
    stops: strings at which what the model says ends, besides its end token;
    results: set label -> `evaluation.scoring.score`; facts: how it was trained, short names to short values.
    """
    model_class, pipeline = _CLASSES[kind]
    front = {
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": ["scotd", "chain-of-thought", "distillation"],
        "base_model": base_model,
        "license": license,
        "datasets": list(datasets),
        "model-index": [{"name": name, "results": [_indexed(k, v) for k, v in results.items()]}] if results else [],
    }
    cut = "".join(f"\ntext = text.split({stop!r})[0]" for stop in stops)
    answer = "output[0]" if kind == "t5" else 'output[0, inputs["input_ids"].shape[1]:]'
    if isinstance(prompt, str):
        inputs = f'tokenizer({prompt!r}, return_tensors="pt")'
    else:
        turns = f"{list(prompt)!r}, add_generation_prompt=True"
        inputs = f'tokenizer.apply_chat_template({turns}, return_dict=True, return_tensors="pt")'
    code = f"""from transformers import AutoTokenizer, {model_class}

tokenizer = AutoTokenizer.from_pretrained(PATH)
model = {model_class}.from_pretrained(PATH)
inputs = {inputs}
output = model.generate(**inputs, do_sample=False, max_new_tokens={max_new_tokens})
text = tokenizer.decode({answer}, skip_special_tokens=True){cut}"""
    limits = (
        "The model was trained to answer questions of the form above, and its reasoning is text that made the right "
        "answer likely: a rationale may be wrong where the answer is right. Nothing else was trained for or tested."
    )
    parts = [
        ("How to use it", f"```python\n{code}\n```"),
        ("How well it does", _results(results) if results else "It was not evaluated in the run that made it."),
        ("How it was trained", _facts(facts)),
        ("Limits", limits),
    ]
    return _card(name, front, about, parts)


def _card(name: str, front: Mapping[str, Any], about: str, parts: Sequence[tuple[str, str]]) -> str:
    # JSON is YAML, so no name or value can break out of the front matter.
    matter = "".join(f"{key}: {json.dumps(value)}\n" for key, value in front.items() if value)
    sections = "".join(f"\n## {title}\n\n{body}\n" for title, body in parts if body)
    return f"---\n{matter}---\n\n# {name}\n\n{about}\n{sections}"


def _indexed(label: str, score: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": {"type": "question-answering"},
        "dataset": {"name": label, "type": label},
        "metrics": [{"type": "accuracy", "value": round(float(score["accuracy"]), 6)}],
    }


def _results(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        (
            label,
            f"{percent(s['accuracy'])} ({span(Estimate(s['accuracy'], *s['interval']))})",
            percent(s.get("chance")),
            percent(s.get("format_failure_rate")),
            f"{s['n']:,}",
        )
        for label, s in results.items()
    ]
    confidence = next(iter(results.values())).get("confidence", 0.95)
    header = ("set", f"correct, % ({100 * confidence:g} % interval)", "guessing, %", "unreadable, %", "questions")
    note = "Intervals are about the questions; how much another training run would differ is not in them."
    return f"{_table(header, lines)}\n\n{note}"


def _facts(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def _table(header: Sequence[str], lines: Any) -> str:
    rows = [header, ["---"] * len(header), *lines]
    cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
