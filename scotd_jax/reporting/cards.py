"""Model cards: README.md of an exported model, as Markdown with the YAML front matter of the Hugging Face Hub.

A card has usage, results with intervals, training details and limitations. Unknown fields, such as the licence, are
left out.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scotd_jax.evaluation.intervals import Estimate
from scotd_jax.records import Prompt
from scotd_jax.reporting.table_files import markdown_table
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
    path: str = "",
    base_model: str = "",
    license: str = "",
    datasets: Sequence[str] = (),
) -> str:
    """Returns the card of an exported student.

    Args:
      name: name of the model.
      kind: architecture, which selects the transformers class.
      about: first paragraph of the card.
      prompt: a complete example prompt: text, or the turns of a chat.
      results: set label -> result of `evaluation.scoring.score`.
      facts: training details, short names to short values.
      stops: strings that end a response, besides the end token.
      max_new_tokens: token limit in the usage example.
      path: path or Hub name of the model, for the usage example.
      base_model: Hub name of the model that was fine-tuned.
      license: SPDX identifier.
      datasets: Hub names of the training data.
    """
    model_class, pipeline = _CLASSES[kind]
    entries = [_model_index_entry(label, score) for label, score in results.items()]
    front_matter = {
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": ["scotd", "chain-of-thought", "distillation"],
        "base_model": base_model,
        "license": license,
        "datasets": list(datasets),
        "model-index": [{"name": name, "results": entries}] if entries else [],
    }
    location = repr(path) if path else "PATH"
    cut = "".join(f"\ntext = text.split({stop!r})[0]" for stop in stops)
    answer = "output[0]" if kind == "t5" else 'output[0, inputs["input_ids"].shape[1]:]'
    if isinstance(prompt, str):
        inputs = f'tokenizer({prompt!r}, return_tensors="pt")'
    else:
        turns = f"{list(prompt)!r}, add_generation_prompt=True"
        inputs = f'tokenizer.apply_chat_template({turns}, return_dict=True, return_tensors="pt")'
    code = f"""from transformers import AutoTokenizer, {model_class}

tokenizer = AutoTokenizer.from_pretrained({location})
model = {model_class}.from_pretrained({location})
inputs = {inputs}
output = model.generate(**inputs, do_sample=False, max_new_tokens={max_new_tokens})
text = tokenizer.decode({answer}, skip_special_tokens=True){cut}"""
    limitations = (
        "The model was trained to answer questions of the form above. Its rationales are generated text that makes the "
        "right answer likely: a rationale may be wrong although the answer is right. No other use "
        "was trained or tested."
    )
    parts = [
        ("Usage", f"```python\n{code}\n```"),
        ("Evaluation", _results(results) if results else "The model was not evaluated in the run that trained it."),
        ("Training", _facts(facts)),
        ("Limitations", limitations),
    ]
    return _card(name, front_matter, about, parts)


def _card(name: str, front_matter: Mapping[str, Any], about: str, parts: Sequence[tuple[str, str]]) -> str:
    # JSON is YAML, so no name or value can break out of the front matter.
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in front_matter.items() if value)
    sections = "".join(f"\n## {title}\n\n{body}\n" for title, body in parts if body)
    return f"---\n{lines}---\n\n# {name}\n\n{about}\n{sections}"


def _model_index_entry(label: str, score: Mapping[str, Any]) -> dict[str, Any]:
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
    header = ("set", f"accuracy, % ({100 * confidence:g} % interval)", "chance, %", "format failures, %", "questions")
    note = "Intervals reflect the number of questions only, not the variance between training runs."
    return f"{markdown_table(header, lines)}\n\n{note}"


def _facts(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())
