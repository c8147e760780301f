"""Preference pages: pairs of responses, drawn and arranged by key, in `preferences/NAME` of a work directory.

    page.html      for annotators; without arm names
    pairs.json     the arms, which of them each pair shows first, and the responses
    choices/       the files that annotators send back

The same command with the same responses makes the same page. The digest of a page covers everything that an annotator
sees, so that choices are never counted for other pairs than those they were made for.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath

from scotd_jax.atomic import write_text
from scotd_jax.digests import digest
from scotd_jax.errors import InputError
from scotd_jax.evaluation.question_groups import question_clusters
from scotd_jax.keyed_random import random_sort_key
from scotd_jax.records import Question, Response, from_mapping, to_json
from scotd_jax.reporting.preference_page import ShownPair, render_preference_page
from scotd_jax.strict_json import read_json

PAIRS_FILE, PAGE_FILE, CHOICES_FOLDER = "pairs.json", "page.html", "choices"


@dataclasses.dataclass(frozen=True)
class PreferenceArm:
    """An arm of a page, and where its responses come from.

    Attributes:
      name: NAME or NAME:SAMPLE of the command line.
      title: name of the arm in the report.
      job: job that made the responses.
      artefact: name of its artefact.
      digest: digest of the artefact.
      sample: index of the sample that is shown.
      sets: question sets with responses.
    """

    name: str
    title: str
    job: Literal["evaluate", "sample"]
    artefact: str
    digest: str
    sample: int
    sets: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PreferencePair:
    """The responses of arms A and B to a question, and which of them the page shows first."""

    question: Question
    a: Response
    b: Response
    a_first: bool

    @property
    def shown(self) -> ShownPair:
        """The pair in the order of the page."""
        return ShownPair(self.question, *((self.a, self.b) if self.a_first else (self.b, self.a)))


@dataclasses.dataclass(frozen=True)
class PreferencePage:
    """A page, and which arm is which on it.

    Attributes:
      a: arm A.
      b: arm B.
      set_name: question set of the pairs.
      editable: whether annotators may edit the reasoning.
      left_out: reason -> number of questions of the set that could not be drawn.
      pairs: the pairs in the order of the page.
    """

    a: PreferenceArm
    b: PreferenceArm
    set_name: str
    editable: bool
    left_out: Mapping[str, int]
    pairs: tuple[PreferencePair, ...]

    @property
    def digest(self) -> str:
        """Digest of the content."""
        return digest(self._content())

    @property
    def name(self) -> str:
        """Name of the folder: the arms and the digest."""
        a, b = (arm.name.rpartition("/")[2].replace(":", "_") for arm in (self.a, self.b))
        return f"{a}-vs-{b}-{self.digest[:8]}"

    def to_json(self) -> str:
        """Returns the content of pairs.json."""
        return json.dumps({"digest": self.digest} | self._content(), indent=2, ensure_ascii=False) + "\n"

    def render(self) -> str:
        """Returns the content of page.html."""
        return render_preference_page(self.digest, [pair.shown for pair in self.pairs], self.editable)

    def _content(self) -> dict[str, Any]:
        return {
            "a": dataclasses.asdict(self.a),
            "b": dataclasses.asdict(self.b),
            "set": self.set_name,
            "editable": self.editable,
            "left_out": dict(self.left_out),
            "pairs": [
                {
                    "question": json.loads(to_json(pair.question)),
                    "a": json.loads(to_json(pair.a)),
                    "b": json.loads(to_json(pair.b)),
                    "a_first": pair.a_first,
                }
                for pair in self.pairs
            ],
        }


def draw_pairs(
    questions: Mapping[str, Question],
    a: Mapping[str, Response],
    b: Mapping[str, Response],
    names: tuple[str, str],
    count: int,
    seed: int,
) -> tuple[tuple[PreferencePair, ...], dict[str, int]]:
    """Draws up to `count` pairs of different responses with rationales; a larger count only appends pairs.

    Of questions that depend on each other (`question_clusters`), one is drawn, so that all pairs are independent.

    Args:
      questions: the questions by id.
      a: responses of arm A by question id.
      b: responses of arm B.
      names: names of A and B.
      count: maximum number of pairs.
      seed: seed of the draw and of the order of the sides.

    Returns:
      The pairs, and reason -> number of questions that could not be drawn.
    """
    pairs, left_out = [], Counter()
    clusters, drawn = question_clusters(questions.values()), set()
    for id_ in sorted(questions, key=lambda id_: random_sort_key("preference pair", seed, id_)):
        missing = [
            name for name, rows in zip(names, (a, b), strict=True) if id_ not in rows or not rows[id_].has_rationale
        ]
        if missing:
            left_out[f"without a rationale of {' and '.join(missing)}"] += 1
        elif (a[id_].rationale, a[id_].answer) == (b[id_].rationale, b[id_].answer):
            left_out["with equal responses"] += 1
        elif clusters[id_] in drawn:
            left_out["that belong to a drawn question"] += 1
        else:
            drawn.add(clusters[id_])
            a_first = random_sort_key("preference side", seed, *names, id_)[0] % 2 == 0
            pairs.append(PreferencePair(questions[id_], a[id_], b[id_], a_first))
    return tuple(pairs[:count]), dict(left_out)


def write_page(folder: epath.Path, page: PreferencePage) -> None:
    """Writes page.html and pairs.json, which is last, and creates the folder for choices."""
    write_text(folder / PAGE_FILE, page.render())
    (folder / CHOICES_FOLDER).mkdir(parents=True, exist_ok=True)
    write_text(folder / PAIRS_FILE, page.to_json())


def read_page(folder: epath.PathLike) -> PreferencePage:
    """Reads pairs.json. Raises InputError if it is damaged or of another version."""
    path = epath.Path(folder) / PAIRS_FILE
    content = read_json(path, "make the page again with make-preference-page")
    try:
        recorded = content.pop("digest")
        page = PreferencePage(
            a=_arm(content["a"]),
            b=_arm(content["b"]),
            set_name=content["set"],
            editable=content["editable"],
            left_out=content["left_out"],
            pairs=tuple(_pair(row, f"{path} pair {number}") for number, row in enumerate(content["pairs"], 1)),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file of make-preference-page ({error!r}); make the page again") from None
    if page.digest != recorded:
        raise InputError(f"{path}: was changed after it was written; make the page again with make-preference-page")
    return page


def _arm(fields: dict[str, Any]) -> PreferenceArm:
    return PreferenceArm(**fields | {"sets": tuple(fields["sets"])})


def _pair(row: dict[str, Any], where: str) -> PreferencePair:
    a, b = (from_mapping(Response, row[arm], where) for arm in ("a", "b"))
    return PreferencePair(from_mapping(Question, row["question"], where), a, b, row["a_first"])
