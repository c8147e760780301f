"""The page on which annotators choose between the reasoning of two arms, without seeing which arm is which.

One self-contained HTML file: its content security policy forbids all requests, and the choices leave it only as a file
that the annotator saves. The page has no arm names; `pairs.json` beside it has them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe

from scotd_jax import __version__
from scotd_jax.records import Question, Response


class ShownPair(NamedTuple):
    """A question with the responses of both arms, in the order of the page."""

    question: Question
    first: Response
    second: Response


def render_preference_page(digest: str, pairs: Sequence[ShownPair], editable: bool) -> str:
    """Returns the page. Equal arguments give equal text.

    Args:
      digest: digest of the page, under which browsers keep the progress, and which the saved choices contain.
      pairs: the pairs in order.
      editable: whether annotators may edit the reasoning.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scotd_jax.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    page = {"digest": digest, "editable": editable, "pairs": [_pair(pair) for pair in pairs]}
    return environment.get_template("preference_page.html").render(
        page=page,
        version=__version__,
        style=_source(environment, "style.css") + _source(environment, "preference_page.css"),
        script=_source(environment, "preference_page.js"),
    )


def _source(environment: jinja2.Environment, name: str) -> markupsafe.Markup:
    assert environment.loader is not None
    return markupsafe.Markup(environment.loader.get_source(environment, name)[0])


def _pair(pair: ShownPair) -> Mapping[str, Any]:
    return {
        "id": pair.question.id,
        "context": pair.question.context,
        "question": pair.question.text,
        "first": {"rationale": pair.first.rationale, "answer": pair.first.answer},
        "second": {"rationale": pair.second.rationale, "answer": pair.second.answer},
    }
