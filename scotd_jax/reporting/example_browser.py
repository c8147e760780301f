"""Template variables of the example browser, whose filters need no script.

Every entry has a class for the outcome of each arm. Filters are radio buttons, and style rules with `:has` hide the
entries of the other outcomes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

from scotd_jax.reporting.changed_words import changed_words
from scotd_jax.reporting.data import BrowserEntry

OUTCOMES = {"right": "right", "wrong": "wrong", "flipped": "partly right"}


def browser_content(entries: Sequence[BrowserEntry], set_names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the filters, their style rules, and the entries with their classes.

    Args:
      entries: the entries of the report.
      set_names: label of a set -> its name.
    """
    arms = list(dict.fromkeys(arm for entry in entries for arm in entry.answers))
    labels = list(dict.fromkeys(label for entry in entries for label in entry.set_labels))
    outcomes = {arm: [key for key in OUTCOMES if any(entry.outcome(arm) == key for entry in entries)] for arm in arms}
    filters = [("set", [(f"s{i}", set_names.get(label, label)) for i, label in enumerate(labels)])]
    filters += [(arm, [(f"a{i}-{key}", OUTCOMES[key]) for key in outcomes[arm]]) for i, arm in enumerate(arms)]
    values = [value for _, options in filters for value, _ in options]
    rules = [f"#examples:has(#only-{value}:checked) .entry:not(.{value}) {{ display: none; }}" for value in values]
    return {
        "filters": [(name, options) for name, options in filters if len(options) > 1],
        "rules": markupsafe.Markup("\n".join(rules)),
        "entries": [_entry(entry, arms, labels, set_names) for entry in entries],
    }


def _entry(
    entry: BrowserEntry, arms: Sequence[str], labels: Sequence[str], set_names: Mapping[str, str]
) -> dict[str, Any]:
    texts = [question.text for question in entry.questions]
    classes = [f"s{labels.index(label)}" for label in dict.fromkeys(entry.set_labels)]
    classes += [f"a{i}-{entry.outcome(arm)}" for i, arm in enumerate(arms)]
    members = [
        {
            "question": question,
            "set": set_names.get(label, label),
            "words": changed_words(question.text, texts[:i] + texts[i + 1 :]),
            "answers": [
                (arm, rows[i], entry.votes[arm][i] if arm in entry.votes else {}) for arm, rows in entry.answers.items()
            ],
        }
        for i, (question, label) in enumerate(zip(entry.questions, entry.set_labels, strict=True))
    ]
    return {"classes": " ".join(classes), "members": members}
