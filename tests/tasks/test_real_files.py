"""Tests on the original files: numbers of rows, frequencies of the answers, and every form in which labels occur."""

from collections import Counter

import pytest

from scotd_jax import config
from scotd_jax.tasks.contrast_pairs import MIN_SHARED_WORDS, shared_words
from scotd_jax.tasks.prompt_formats import FORMATS
from scotd_jax.tasks.registry import load_task


def task(shared_data, kind, folder, name="", **settings):
    return load_task(name or kind, config.Task(kind=kind, path=f"{shared_data}/{folder}", **settings), 0)


def answers(questions):
    """Returns how often each answer occurs, in the order of the answers."""
    return [count for _, count in sorted(Counter(q.answer for q in questions).items())]


@pytest.mark.exhaustive
def test_commonsenseqa(shared_data):
    found = task(shared_data, "commonsenseqa", "commonsenseqa")
    train, dev = found.questions("train"), found.questions("dev")
    assert answers(train) == [1909, 1973, 1946, 1985, 1928]
    assert answers(dev) == [239, 255, 241, 251, 235]
    # Questions with two equal choices, and those whose gold choice is one of the two.
    for questions, repeated, gold in ((train, 122, 42), (dev, 24, 6)):
        assert {len(q.choices) for q in questions} == {5}
        assert sum(len(set(q.choices)) < 5 for q in questions) == repeated
        texts = [q.choices["abcde".index(q.answer[1])] for q in questions]
        assert sum(q.choices.count(text) > 1 for q, text in zip(questions, texts, strict=True)) == gold
        assert not [q for q in questions if "  " in q.text]


@pytest.mark.slow
def test_openbookqa(shared_data):
    found = task(shared_data, "openbookqa", "openbookqa")
    counts = {split: answers(found.questions(split)) for split in found.splits[:-1]}
    assert counts == {"train": [1378, 1212, 1146, 1221], "dev": [126, 138, 110, 126], "test": [138, 126, 132, 104]}
    train = found.questions("train")
    assert len({(q.text, q.answer) for q in train}) == 4952, "five questions come twice and stay"
    stems = Counter(q.text.split(" (a) ")[0] for q in train)
    assert sum(count > 1 for count in stems.values()) == 101


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "split", "rows"),
    [
        ("easy", "train", {4: 2241, 3: 6, 5: 4}),
        ("easy", "dev", {4: 567, 3: 1, 5: 2}),
        ("easy", "test", {4: 2365, 3: 7, 5: 4}),
        ("challenge", "train", {4: 1117, 3: 1, 5: 1}),
        ("challenge", "dev", {4: 295, 3: 3, 5: 1}),
    ],
)
def test_arc(shared_data, part, split, rows):
    questions = task(shared_data, "arc", "arc", f"arc_{part}").questions(split)
    assert Counter(len(q.choices) for q in questions) == rows
    assert None not in {q.answer for q in questions}
    if (part, split) == ("easy", "test"):
        [digits] = [q for q in questions if q.id == "arc_easy/test/NYSEDREGENTS_2015_8_28"]
        assert digits.answer == "(b)", "the key is the digit 2"


def test_quarel(shared_data):
    found = task(shared_data, "quarel", "quarel")
    assert {s: answers(found.questions(s)) for s in found.splits[:-1]} == {"dev": [132, 146], "test": [248, 304]}
    assert all(len(q.choices) == 2 for q in found.questions("test"))


@pytest.mark.slow
def test_sst2(shared_data):
    found = task(shared_data, "sst2", "sst2")
    assert {s: answers(found.questions(s)) for s in found.splits[:-1]} == {"dev": [428, 444], "test": [912, 909]}
    accents = [sum(not q.text.isascii() for q in found.questions(s)) for s in found.splits[:-1]]
    assert accents == [6, 10]


def test_imdb(shared_data):
    found = task(shared_data, "imdb", "imdb_contrast")
    assert found.splits == ("dev", "dev_contrast", "test", "contrast", "exemplars")
    for one, other, rows, marked, quoted in (("dev", "dev_contrast", 100, 50, 0), ("test", "contrast", 488, 254, 1)):
        pairs = list(zip(found.questions(one), found.questions(other), strict=True))
        assert len(pairs) == rows
        assert all(a.group == b.group and a.answer != b.answer and a.text != b.text for a, b in pairs)
        assert sum("<br /><br />" in a.text for a, _ in pairs) == marked
        assert len({a.group for a, _ in pairs}) == rows
        # The files double every quotation mark. One review has two of its own: "indie"" type movie.
        assert [sum('""' in q.text for q in questions) for questions in zip(*pairs, strict=True)] == [quoted] * 2
        shifted = [*pairs[1:], pairs[0]]  # every review with the edit of another one
        unrelated = [shared_words(a.text, b.text) for (a, _), (_, b) in zip(pairs, shifted, strict=True)]
        assert max(unrelated) < MIN_SHARED_WORDS < min(shared_words(a.text, b.text) for a, b in pairs)
    assert answers(found.questions("test")) == [243, 245]


def test_t5_prompts_have_no_newlines(shared_data):
    folders = {"commonsenseqa": "commonsenseqa", "sst2": "sst2", "imdb": "imdb_contrast"}
    for kind, folder in folders.items():
        [question] = task(shared_data, kind, folder, format="t5", limit=1).questions("dev")
        assert "\n" not in FORMATS["t5"].prompt(question)
