"""Chat templates: renders the turns of a chat as text with the template of an instruction-tuned model's tokenizer."""

from collections.abc import Sequence
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.records import Turn

# 26 July 2024, the default date of Llama's templates, by strftime code.
_DATE = {
    "%Y": "2024",
    "%m": "07",
    "%d": "26",
    "%-d": "26",
    "%B": "July",
    "%b": "Jul",
    "%A": "Friday",
    "%a": "Fri",
    "%y": "24",
}
# Replaces the function `strftime_now` that transformers passes to templates. Jinja drops the line end after the macro.
_FIXED_DATE = "{% macro strftime_now(form) %}{{ form"
_FIXED_DATE += "".join(f"|replace({code!r}, {value!r})" for code, value in _DATE.items()) + " }}{% endmacro %}\n"


def chat_template(fast: Any) -> str:
    """Returns the chat template of a fast tokenizer. Raises InputError if it has none."""
    try:
        return fast.get_chat_template()
    except ValueError:  # no template, or several without a default
        raise InputError(
            f"tokenizer {fast.name_or_path!r}: has no chat template; set the tokenizer of an instruction-tuned "
            "model (tokenizer=FOLDER), or chat=False"
        ) from None


def render_chat(fast: Any, messages: Sequence[Turn]) -> str:
    """Renders a chat as text with the tokenizer's template, up to the start of the model's turn.

    Raises:
      InputError: if the tokenizer has no template, or the template refuses the turns.
    """
    return _apply(fast, messages, add_generation_prompt=True)


def turn_end(fast: Any) -> str:
    """Returns the text that the template writes after the content of an assistant turn, such as "<|im_end|>\\n".

    Raises:
      InputError: if the tokenizer has no template, or the template refuses a user and an assistant turn.
    """
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "response"}]
    return _apply(fast, turns, add_generation_prompt=False).rpartition("response")[2]


def fix_date(template: str | dict[str, str] | None) -> str | dict[str, str] | None:
    """Returns the template (or templates by name) with a fixed current date, so that prompts are reproducible."""
    if isinstance(template, dict):
        return {name: str(fix_date(text)) for name, text in template.items()}
    if template is None or "strftime_now" not in template or template.startswith(_FIXED_DATE):
        return template
    return _FIXED_DATE + template


def _apply(fast: Any, messages: Sequence[Turn], *, add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    template, turns = chat_template(fast), [dict(turn) for turn in messages]
    settings = {"chat_template": template, "add_generation_prompt": add_generation_prompt, "tokenize": False}
    try:
        return fast.apply_chat_template(turns, **settings)
    except (TemplateError, TypeError) as error:
        raise InputError(
            f"tokenizer {fast.name_or_path!r}: its chat template refuses {len(turns)} turns of "
            f"{' and '.join(dict.fromkeys(turn['role'] for turn in turns))} ({error})"
        ) from None
