"""The commands `make-preference-page` and `read-preferences`."""

import dataclasses
import json

from scotd_jax.atomic import write_text
from scotd_jax.config import Config
from scotd_jax.errors import InputError, lookup
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.inspection.commands import cpu_context
from scotd_jax.jobs.preferences.arms import FLAG, arm_responses, find_arm
from scotd_jax.jobs.preferences.pages import (
    CHOICES_FOLDER,
    PAGE_FILE,
    PreferenceArm,
    PreferencePage,
    draw_pairs,
    write_page,
)
from scotd_jax.jobs.preferences.results import (
    FOLDER,
    AnnotatedPage,
    annotated_pages,
    picked_responses,
    preference_result,
)
from scotd_jax.jobs.report_parts.evaluated_sets import set_label
from scotd_jax.records import to_json
from scotd_jax.reporting.plain_text import format_preferences
from scotd_jax.workdir_lock import lock_workdir

RESULTS_FILE, PICKED_FILE = "results.json", "picked.jsonl"


def make_preference_page(config: Config, workdir: str, arms: tuple[str, ...], set_name: str | None, count: int) -> str:
    """Writes a page with pairs of responses of two arms to preferences/NAME, and returns where it is, as text.

    Args:
      config: the config.
      workdir: work directory with the responses.
      arms: the two arms, each as NAME or NAME:SAMPLE of an evaluation or a set of responses.
      set_name: question set; None for the first one to which both arms have responses.
      count: maximum number of pairs.

    Raises:
      InputError: if an arm or the set is unknown, the arms are equal, no pair can be drawn, or another process writes
        to the work directory.
    """
    if len(arms) != 2:
        raise InputError(f"{FLAG}: expected two names, A,B, found {len(arms)}: {','.join(arms)!r}")
    context = cpu_context(config, workdir, ())
    a, b = (find_arm(context, name) for name in arms)
    if (a.job, a.artefact, a.sample) == (b.job, b.artefact, b.sample):
        raise InputError(f"{FLAG}={','.join(arms)}: the arms are equal; name two different ones")
    set_name = _common_set(a, b, set_name)
    questions, rows_a = arm_responses(context, a, set_name)
    others, rows_b = arm_responses(context, b, set_name)
    questions = {**others, **questions}
    pairs, left_out = draw_pairs(questions, rows_a, rows_b, (a.name, b.name), count, config.seed)
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items())
    if not pairs:
        raise InputError(f"{FLAG}={','.join(arms)}: no pair of {set_name} can be compared; left out: {reasons}")
    page = PreferencePage(a, b, set_name, a.job == b.job == "sample", left_out, pairs)
    folder = context.workdir.root / FOLDER / page.name
    with lock_workdir(context.workdir.root):
        write_page(folder, page)
    usable = len(questions) - sum(left_out.values())
    lines = [
        f"{folder / PAGE_FILE}",
        f"{len(pairs):,} pairs of {a.name} and {b.name}, drawn from {usable:,} of {len(questions):,} questions of "
        f"{set_name}",
        *([f"left out: {reasons}"] if reasons else []),
        f"Send {PAGE_FILE} to the annotators, put the files they send back into {CHOICES_FOLDER}/ beside it, and run "
        "read-preferences.",
    ]
    return "\n".join(lines)


def read_preferences(config: Config, workdir: str) -> str:
    """Writes the results of all pages with choices to results.json beside them, and returns them as text.

    For pages on which annotators may edit, also writes the preferred responses to picked.jsonl.

    Raises:
      InputError: if there are no choices, a file is refused, or another process writes to the work directory.
    """
    context = cpu_context(config, workdir, ())
    pages = annotated_pages(context)
    answered = [annotated for annotated in pages if annotated.annotators]
    if not answered:
        folder = context.workdir.root / FOLDER
        raise InputError(
            f"{folder}: no file of an annotator in */{CHOICES_FOLDER}/ ({len(pages)} pages); make a page with "
            "make-preference-page and put the saved files there"
        )
    with lock_workdir(context.workdir.root):
        return "\n\n".join(_write_results(context, annotated) for annotated in answered)


def _write_results(context: RunContext, annotated: AnnotatedPage) -> str:
    """Writes the results of one page, and returns them as text."""
    label = set_label(context, annotated.page.set_name)
    result = preference_result(annotated, label, context.config.evaluation.confidence)
    content = dataclasses.asdict(result) | {
        "summaries": {
            name: summary._asdict() | {"win_rate": summary.win_rate and summary.win_rate._asdict()}
            for name, summary in result.summaries.items()
        },
        "first_rate": result.first_rate and result.first_rate._asdict(),
        "left_out": dict(annotated.page.left_out),
    }
    write_text(annotated.folder / RESULTS_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    text = format_preferences(result)
    if annotated.page.editable:
        picked = list(picked_responses(annotated))
        write_text(annotated.folder / PICKED_FILE, "".join(f"{to_json(row)}\n" for row in picked))
        text += f"\n{len(picked):,} preferred responses: {annotated.folder / PICKED_FILE}"
    return text


def _common_set(a: PreferenceArm, b: PreferenceArm, set_name: str | None) -> str:
    """The question set of a page; by default the first one of arm A that arm B has too."""
    common = [name for name in a.sets if name in b.sets]
    if not common:
        raise InputError(
            f"{FLAG}={a.name},{b.name}: have no question set in common: {', '.join(a.sets)} and {', '.join(b.sets)}"
        )
    if set_name is not None:
        lookup(dict.fromkeys(common), set_name, "--set")
    return set_name or common[0]
