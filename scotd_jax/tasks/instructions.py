"""Instructions for instruction-tuned models: they request an answer that the prompt format parses.

An instruction is a template with two fields:

- `{answer_sentence}`: the sentences that may end a response, as in: "So the answer is: (a)" or "So the answer is: (b)"
- `{answers}`: the answers alone, as in: (a) or (b)
"""

import string

from scotd_jax.config import Recipe
from scotd_jax.errors import InputError, did_you_mean

FIELDS = ("answer_sentence", "answers")
# SmolLM2-135M-Instruct on QuaRel: 70 of 80 responses are unparsable without an instruction, 40 with this one, and 36 to
# 51 with three others.
REASON = "Explain which answer is right. End with {answer_sentence}."
LABEL = "Write only the answer: {answers}."


def default_instruction(recipe: Recipe) -> str:
    """Returns the instruction for a recipe; "" for recipes whose responses have another form."""
    if recipe.parse_as != "response":
        return ""
    return REASON if any("{marker}" in part.target for part in recipe.parts.values()) else LABEL


def check_instruction(instruction: str, where: str) -> None:
    """Raises InputError unless the instruction is a template of `FIELDS`."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(instruction) if field is not None}
    except ValueError as error:
        raise InputError(
            f"{where}: {instruction!r} is not a valid template ({error}); double a literal brace"
        ) from None
    for field in sorted(fields - set(FIELDS)):
        raise InputError(f"{where}: unknown field {{{field}}}; {did_you_mean(field, FIELDS)}")
