"""Results of preference pages: statistics of the choices, and the preferred responses of editable pages."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.evaluation.agreement import krippendorff_alpha
from scotd_jax.evaluation.intervals import wilson_interval
from scotd_jax.evaluation.preferences import Preference, majority_preference, summarize_preferences
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.preferences.choice_files import AnnotatorChoices, read_choice_files
from scotd_jax.jobs.preferences.pages import PAIRS_FILE, PreferencePage, read_page
from scotd_jax.records import Response
from scotd_jax.reporting.data import PreferenceResult

FOLDER = "preferences"  # in the work directory


@dataclasses.dataclass(frozen=True)
class AnnotatedPage:
    """A page with the choices of its annotators."""

    folder: epath.Path
    page: PreferencePage
    annotators: Sequence[AnnotatorChoices]

    @property
    def choices(self) -> dict[str, list[Preference]]:
        """Question id -> the preferences of all annotators with a choice."""
        ids = [pair.question.id for pair in self.page.pairs]
        return {id_: [each.choices[id_] for each in self.annotators if id_ in each.choices] for id_ in ids}


def annotated_pages(context: RunContext) -> list[AnnotatedPage]:
    """Returns all pages of the work directory, with and without choices, in the order of their names.

    Raises:
      InputError: if a file is damaged, or the responses of an arm have changed since its page was made.
    """
    found = []
    for path in sorted((context.workdir.root / FOLDER).glob(f"*/{PAIRS_FILE}")):
        page = read_page(path.parent)
        for arm in (page.a, page.b):
            if context.artefact(arm.job, arm.artefact).digest != arm.digest:
                raise InputError(
                    f"{path}: the responses of {arm.name!r} have changed since the page was made; remove the folder "
                    f"{path.parent.name}, or make a new page with another --workdir"
                )
        found.append(AnnotatedPage(path.parent, page, read_choice_files(path.parent, page)))
    return found


def preference_result(annotated: AnnotatedPage, set_label: str, confidence: float) -> PreferenceResult:
    """Returns the statistics of a page that has choices.

    As in SCoTD, section 3.1.1, preferences are over all pairs and over those with two correct answers.

    Args:
      annotated: the page with its choices.
      set_label: label of its question set in the report.
      confidence: confidence level of the intervals.
    """
    page, choices = annotated.page, annotated.choices
    subsets = {
        "all pairs": list(choices),
        "both answers correct": [pair.question.id for pair in page.pairs if pair.a.correct and pair.b.correct],
    }
    annotators = annotated.annotators
    decided = sum(preference != "tie" for each in annotators for preference in each.choices.values())
    return PreferenceResult(
        name=annotated.folder.name,
        arms=(page.a.title, page.b.title),
        set_label=set_label,
        pairs=len(page.pairs),
        annotators={each.annotator: len(each.choices) for each in annotators},
        summaries=summarize_preferences(choices, {name: ids for name, ids in subsets.items() if ids}, confidence),
        alpha=krippendorff_alpha(choices.values()),
        first_rate=wilson_interval(sum(each.first for each in annotators), decided, confidence) if decided else None,
        confidence=confidence,
    )


def picked_responses(annotated: AnnotatedPage) -> Iterator[Response]:
    """Yields the preferred response to each question without a tie, or its edited versions if there are any.

    Edits of annotators who prefer the other response are left out. Edited responses have neither a log-probability nor
    a number of tokens, which are recorded as 0.
    """
    for pair in annotated.page.pairs:
        id_ = pair.question.id
        preferred = majority_preference(annotated.choices[id_])
        if preferred == "tie":
            continue
        response = dataclasses.replace(pair.a if preferred == "a" else pair.b, sample_index=0)
        agreeing = [each for each in annotated.annotators if each.choices.get(id_) == preferred]
        edits = dict.fromkeys(_paragraph(each.edits[id_]) for each in agreeing if id_ in each.edits)
        versions = [_edited(response, text, index) for index, text in enumerate(edits)]
        yield from versions or [response]


def _edited(response: Response, rationale: str, index: int) -> Response:
    return dataclasses.replace(
        response,
        sample_index=index,
        text=response.text.replace(response.rationale or "", rationale, 1),
        rationale=rationale,
        logprob=0.0,
        num_tokens=0,
        sampling=", ".join(filter(None, (response.sampling, "edited"))),
    )


def _paragraph(text: str) -> str:
    """A text without blank lines, which end a response in the format of SCoTD."""
    return re.sub(r"\n\s*\n", "\n", text.strip())
