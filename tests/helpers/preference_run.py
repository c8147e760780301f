"""A run with two evaluated arms and two sets of responses, for tests of preference pages."""

import dataclasses
import json
from pathlib import Path

from scotd_jax import config as c
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.preferences.pages import CHOICES_FOLDER
from scotd_jax.records import Question, Response, to_json
from tests.helpers.corpora import make_run, question, responses, write_questions

EVALUATED = 8  # questions of t.test


def preference_run(folder: Path) -> RunContext:
    """Returns a run with the evaluations "long" and "short" and the sets of responses "x" and "y", all complete.

    On t.test, "short" has no rationale for question 0, and both arms have the same response to question 1. Questions 2
    and 3 share a contrast group.
    """
    test = [
        dataclasses.replace(
            question(i, "test"), group="pair" if i in (2, 3) else None, context=f"Passage {i} </script>."
        )
        for i in range(EVALUATED)
    ]
    train = [question(i) for i in range(6)]
    write_questions(folder / "t", train=train, dev=[question(0, "dev")], test=test)
    sampled = {name: responses(train, 2, f"model-{name}") for name in ("x", "y")}
    run = make_run(folder, c.Corpus(), sampled)
    evals = {
        name: c.EvalSpec("s", ("t.test",), arm=f"the {name} arm", checkpoint="initial") for name in ("long", "short")
    }
    run = make_context(dataclasses.replace(run.config, evals=evals), run.workdir)
    for name, rows in {"long": long_rows(test), "short": short_rows(test)}.items():
        evaluated(run, name, rows)
    return run


def long_rows(questions: list[Question]) -> list[Response]:
    """Returns the responses of the arm "long"."""
    return responses(questions, 1, "long")


def short_rows(questions: list[Question]) -> list[Response]:
    """Returns the responses of the arm "short"."""
    rows = responses(questions, 1, "short")
    rows[0] = dataclasses.replace(rows[0], rationale=None)
    rows[1] = dataclasses.replace(long_rows(questions)[1], model="short")
    return rows


def evaluated(run: RunContext, name: str, rows: list[Response], samples: list[Response] | None = None) -> None:
    """Writes a complete evaluation of t.test with these responses, and four samples per question that vote."""
    artefact = run.artefact("evaluate", name)
    artefact.remove()
    artefact.begin({"name": name})
    (artefact.path / "t.test.responses.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    if samples:
        (artefact.path / "t.test.n4.responses.jsonl").write_text("".join(to_json(row) + "\n" for row in samples))
    artefact.finish({}, [row.text for row in rows])


def save_choices(folder: Path, annotator: str, choices: dict[str, str], **changes) -> Path:
    """Writes a file as the page saves it, into the folder of its page; `changes` replace fields."""
    page = json.loads((folder / "pairs.json").read_text())["digest"]
    content = {"page": page, "annotator": annotator, "choices": choices, "edits": {}} | changes
    path = folder / CHOICES_FOLDER / f"{annotator}.json"
    path.write_text(json.dumps(content))
    return path
