"""Reads the files that annotators save on a preference page."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from scotd_jax.errors import InputError, list_names
from scotd_jax.evaluation.preferences import Preference
from scotd_jax.jobs.preferences.pages import CHOICES_FOLDER, PreferencePage
from scotd_jax.strict_json import loads

_FIELDS: dict[str, type] = {"page": str, "annotator": str, "choices": dict, "edits": dict}
_CHOICES = ("first", "tie", "second")


@dataclasses.dataclass(frozen=True)
class AnnotatorChoices:
    """The choices of one annotator.

    Attributes:
      annotator: name of the annotator.
      choices: question id -> preferred arm.
      edits: question id -> edited rationale of the preferred arm.
      first: number of choices for the response that is shown first.
    """

    annotator: str
    choices: Mapping[str, Preference]
    edits: Mapping[str, str]
    first: int


def read_choice_files(folder: epath.Path, page: PreferencePage) -> list[AnnotatorChoices]:
    """Reads all files in choices/ of a page's folder, in the order of their names. Files may be incomplete.

    Raises:
      InputError: if a file is not one of this page, or two files are of one annotator.
    """
    found: dict[str, epath.Path] = {}
    annotators = []
    choices_folder = folder / CHOICES_FOLDER
    for path in sorted(choices_folder.iterdir()) if choices_folder.exists() else ():
        if path.name.startswith("."):  # of the operating system
            continue
        annotator = read_choice_file(path, page)
        key = " ".join(annotator.annotator.casefold().split())
        if key in found:
            raise InputError(
                f"{path}: annotator {annotator.annotator!r} is also that of {found[key].name}; remove the older file "
                "if both are of one person, else change the name in one of them"
            )
        found[key] = path
        annotators.append(annotator)
    return annotators


def read_choice_file(path: epath.PathLike, page: PreferencePage) -> AnnotatorChoices:
    """Reads one file.

    Raises:
      InputError: if it is malformed or of another page, has no annotator or no choices, or has choices or edits that
        the page does not allow.
    """
    fields = _read_fields(epath.Path(path))
    if fields["page"] != page.digest:
        raise InputError(
            f"{path}: made on page {fields['page']!r:.40}, but this folder has page {page.digest!r}; move the file to "
            "the folder of its page"
        )
    if not fields["annotator"].strip():
        raise InputError(f"{path}: field 'annotator' is empty; expected a name or a pseudonym")
    if not fields["choices"]:
        raise InputError(f"{path}: has no choices; remove it until there are some")
    pairs = {pair.question.id: pair for pair in page.pairs}
    for field in ("choices", "edits"):
        if unknown := [id_ for id_ in fields[field] if id_ not in pairs]:
            raise InputError(
                f"{path}: field {field!r} has {len(unknown)} entries for pairs that the page does not have: "
                f"{list_names(unknown, 3)}; save the file again from the page"
            )
    for id_, choice in fields["choices"].items():
        if choice not in _CHOICES:
            raise InputError(f"{path}: the choice for {id_!r} is {choice!r:.40}; expected {', '.join(_CHOICES)}")
    for id_, text in fields["edits"].items():
        if not page.editable or fields["choices"].get(id_) not in ("first", "second"):
            why = "no response is preferred" if page.editable else "the page has no editing"
            raise InputError(f"{path}: has an edited rationale for {id_!r}, but {why}; save the file again")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}: the edited rationale for {id_!r} is {text!r:.40}; expected a text")
    return AnnotatorChoices(
        annotator=fields["annotator"].strip(),
        choices={id_: _preference(choice, pairs[id_].a_first) for id_, choice in fields["choices"].items()},
        edits=fields["edits"],
        first=sum(choice == "first" for choice in fields["choices"].values()),
    )


def _read_fields(path: epath.Path) -> dict[str, Any]:
    try:
        fields = loads(path.read_bytes())
    except (ValueError, OSError) as error:  # not JSON, or a folder
        raise InputError(f"{path}: not a JSON file ({error}); expected a file saved on the page") from None
    if not isinstance(fields, dict) or set(fields) != set(_FIELDS):
        found = list_names(fields) if isinstance(fields, dict) else f"{fields!r:.40}"
        raise InputError(f"{path}: expected the fields {', '.join(_FIELDS)} of a file saved on the page, found {found}")
    for name, kind in _FIELDS.items():
        if not isinstance(fields[name], kind):
            raise InputError(f"{path}: field {name!r} should be {kind.__name__}, found {fields[name]!r:.40}")
    return fields


def _preference(choice: str, a_first: bool) -> Preference:
    if choice == "tie":
        return "tie"
    return "a" if (choice == "first") == a_first else "b"
