"""Prompts, example responses and preferences as plain text of at most 100 columns, for the commands."""

import textwrap
from collections.abc import Iterable, Iterator

from scotd_jax.reporting import tables
from scotd_jax.reporting.data import Example, PreferenceResult, PromptView, ResponseSet

WIDTH = 100  # columns
LEGEND = (
    "Special tokens are shown. \N{RETURN SYMBOL} is a line end, \N{OPEN BOX} a blank at the end of a line. Long lines "
    "are wrapped. The loss is computed on the tokens of lines that begin with 'loss'."
)


def format_prompts(views: Iterable[PromptView]) -> str:
    """Returns the prompts and targets as text."""
    blocks = [textwrap.fill(LEGEND, WIDTH)]
    for view in views:
        heading = textwrap.fill(f"{view.role} {', '.join(view.names)}: {view.about}", WIDTH)
        facts = [f"question {view.question_id}"]
        if view.prompt_tokens is not None:
            facts.append(f"prompt {view.prompt_tokens} tokens")
        if view.target:
            facts.append(f"response {view.target_tokens} tokens")
        if view.ends:
            facts.append(f"a response ends with {' or '.join(repr(end) for end in view.ends)}")
        lines = [heading, "=" * min(WIDTH, len(heading)), textwrap.fill(", ".join(facts), WIDTH)]
        lines += [*_quoted("     | ", view.prompt), *(_quoted("loss | ", view.target) if view.target else ())]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def format_response_sets(sets: Iterable[ResponseSet]) -> str:
    """Returns example responses of every bin as text."""
    blocks = []
    for responses in sets:
        heading = textwrap.fill(f"{responses.name}, {responses.summary}", WIDTH)
        blocks.append(f"{heading}\n{'=' * min(WIDTH, len(heading))}")
        for name, bin_ in responses.bins.items():
            blocks += ["\n".join(_example(name, example)) for example in bin_.examples]
    return "\n\n".join(blocks)


def format_preferences(result: PreferenceResult) -> str:
    """Returns the preferences between two arms as a table, with their annotators and agreement."""
    a, b = result.arms
    heading = textwrap.fill(f"{a} (A) against {b} (B) on {result.set_label}, {result.pairs:,} pairs", WIDTH)
    interval = f"A wins, % ({100 * result.confidence:g} % interval)"
    lines = [heading, "=" * min(WIDTH, len(heading))]
    lines += [f"{'':22}{'pairs':>7}{'A':>7}{'ties':>7}{'B':>7}  {interval:>32}{'p':>9}"]
    for name, summary in result.summaries.items():
        rate = summary.win_rate
        wins = "-" if rate is None else f"{tables.percent(rate.value)} ({tables.span(rate)})"
        counts = "".join(f"{value:>7,}" for value in (summary.pairs, summary.a, summary.ties, summary.b))
        lines.append(f"{name:22}{counts}  {wins:>32}{tables.p_text(summary.p_value):>9}")
    annotators = ", ".join(f"{name} {count:,} of {result.pairs:,}" for name, count in result.annotators.items())
    lines += [textwrap.fill(f"choices: {annotators}", WIDTH)]
    agreement = "unknown: no pair has two choices, or all are equal" if result.alpha is None else f"{result.alpha:.2f}"
    lines += [f"agreement (Krippendorff's alpha): {agreement}"]
    if result.first_rate is not None:
        first = f"{tables.percent(result.first_rate.value)} % ({tables.span(result.first_rate)})"
        lines += [f"choices for the response shown first: {first}"]
    lines += ["A wins: share of the pairs without ties; p: sign test, Holm-corrected over the rows."]
    return "\n".join(lines)


def _example(bin_name: str, example: Example) -> Iterator[str]:
    question, response = example.question, example.response
    answers = f"answer {response.answer}, gold answer {question.answer}"
    yield textwrap.fill(f"{bin_name}: {question.id}, sample {response.sample_index}, {answers}", WIDTH)
    yield from _quoted("question | ", "\n".join(filter(None, (question.context, question.text))))
    yield from _quoted("response | ", response.text)


def _quoted(margin: str, text: str) -> Iterator[str]:
    """Yields the lines of a text after a margin, with visible line ends; long lines are wrapped."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        blanks = len(line) - len(line.rstrip(" "))
        visible = line.rstrip(" ") + "\N{OPEN BOX}" * blanks
        visible += "\N{RETURN SYMBOL}" if number < len(lines) - 1 else ""
        if visible or len(lines) == 1:
            settings = {"replace_whitespace": False, "drop_whitespace": False, "break_on_hyphens": False}
            pieces = textwrap.wrap(visible, WIDTH - len(margin), expand_tabs=False, **settings)
            yield from ((margin + piece).rstrip() for piece in pieces or [""])
