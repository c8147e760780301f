"""What all importers have in common: options, order of files, joining to questions, comparison with chance."""

import pytest

from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.row_readers import expand_paths
from scotd_jax.records import Question
from scotd_jax.tasks.answer_patterns import normalize_answer
from tests.rationales.importers.test_importers import (
    COMPLETION_A,
    COMPLETION_B,
    KETTLE,
    LADDER,
    QUESTIONS,
    batch,
    importing,
    short,
    write,
)

# An importer file.
OWN = """
def responses(row):
    for i, text in enumerate(row.items("answers", str)):
        yield row.response(text, question_id=row.required("about", str), sample_index=i, model=row.value["by"])
"""


def test_importer_in_one_python_file(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    rows = [{"about": "k1", "answers": [COMPLETION_A, COMPLETION_B], "by": "m"}, {"about": "k2", "answers": []}]
    path = write(tmp_path / "p.jsonl", [*rows, {"about": "k2", "answers": [COMPLETION_B], "by": "n"}], lines=True)
    kept, job = importing(path, str(tmp_path / "own.py"))
    assert [(r.question_id, r.sample_index, r.answer, r.model) for r in kept] == [
        ("home/train/k1", 0, "(a)", "m"),
        ("home/train/k1", 1, "(b)", "m"),
        ("home/train/k2", 0, "(b)", "n"),
    ]
    assert str(tmp_path / "own.py") in map(str, job.files), "a changed importer is another import"
    write(path, [rows[0], {"about": "k2"}, {"about": "k2", "answers": [COMPLETION_B]}], lines=True)
    kept, job = importing(path, str(tmp_path / "own.py"), skip_bad=True)
    assert job.ledger.to_json()["total"]["skipped"] == {"missing field": 1, "wrong form": 1}
    with pytest.raises(InputError, match="p.jsonl line 2: field 'answers' is missing; found about"):
        importing(path, str(tmp_path / "own.py"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", r"config.rationales.r.importer: .*own.py: defines neither responses\(row\) nor read\(path, options\)"),
        ("def responses(row):\n    return [row.value['by']]", "line 1: reading it failed with KeyError: 'by'"),
        (
            "def responses(row):\n    return ['text']",
            r"line 1: .*responses\(row\) gave 'text', expected results of row",
        ),
    ],
)
def test_wrong_importer_file_is_refused(tmp_path, code, message):
    (tmp_path / "own.py").write_text(code)
    path = write(tmp_path / "p.jsonl", [{"about": "k1"}], lines=True)
    with pytest.raises(InputError, match=message):
        importing(path, str(tmp_path / "own.py"))
    with pytest.raises(InputError, match="config.rationales.r.importer: .*gone.py: no such file"):
        importing(path, str(tmp_path / "gone.py"))


def test_importer_file_may_read_files_of_any_form(tmp_path):
    (tmp_path / "own.py").write_text(
        "from scotd_jax.rationales.importers.imported import ImportedResponse\n"
        "def read(path, options):\n"
        "    for i, line in enumerate(path.read_text().splitlines()):\n"
        "        name, _, text = line.partition('|')\n"
        "        yield ImportedResponse(f'{path} line {i + 1}', i, text, question_id=name)\n"
    )
    (tmp_path / "p.txt").write_text(f"k1|{COMPLETION_A}\nk2|It is B.\n")
    kept, _ = importing(tmp_path / "p.txt", str(tmp_path / "own.py"))
    assert short(kept) == [("k1", 0, "Heat does it.", "(a)", True), ("k2", 0, None, None, False)]
    kept, _ = importing(tmp_path / "p.txt", str(tmp_path / "own.py"), answer_pattern=r"is:? \(?(\w)")
    assert [row.answer for row in kept] == ["(a)", "(b)"]


THINKS = "<think>Heat\ndoes it.</think>\n\nSo the answer is: (a)"


@pytest.mark.parametrize(
    ("think", "text", "rationale", "answer"),
    [
        ("keep", THINKS.replace("\n\n", " "), "<think>Heat\ndoes it.</think>", "(a)"),
        ("strip", f"It boils. {THINKS[7:]}", "", "(a)"),  # the opening tag is missing
        ("strip", THINKS, "", "(a)"),
        ("rationale", THINKS, "Heat\ndoes it.", "(a)"),
        ("rationale", "<think>Heat", None, None),
        ("strip", "<think>Heat", None, None),
    ],
)
def test_think_option(tmp_path, think, text, rationale, answer):
    path = write(tmp_path / "p.jsonl", [{"prompt": KETTLE, "completion": text}], lines=True)
    rows, _ = importing(path, "prompt_completion", think=think)
    assert short(rows) == [("k1", 0, rationale, answer, answer is not None)]
    with pytest.raises(InputError, match=r"p.jsonl line 1: holds a <think> block.*option 'think'"):
        importing(path, "prompt_completion", skip_bad=True)


def test_answer_pattern(tmp_path):
    text = r"Is it \boxed{B}? Heat does it. \boxed{A}"
    path = write(tmp_path / "p.jsonl", [{"prompt": KETTLE, "completion": text}], lines=True)
    rows, _ = importing(path, "prompt_completion", answer_pattern=r"\\boxed\{(\w)\}")
    assert short(rows) == [("k1", 0, r"Is it \boxed{B}? Heat does it.", "(a)", True)]
    assert short(importing(path, "prompt_completion", answer_pattern="is (X)")[0]) == [("k1", 0, None, None, False)]


@pytest.mark.parametrize(
    ("importer", "options", "message"),
    [
        ("open-r1", {}, "config.rationales.r.importer: unknown importer 'open-r1'; did you mean 'open_r1'?"),
        ("vllm", {"thinks": "keep"}, "config.rationales.r.options.thinks: .*did you mean 'think'?"),
        ("vllm", {"think": "drop"}, "options.think: 'drop' is not one of keep, strip, rationale"),
        ("vllm", {"answer": "is (x)"}, "config.rationales.r.options.answer: is now config.rationales.r.answer_pattern"),
        ("vllm", {"allow_chance": "yes"}, "options.allow_chance: expected bool, found 'yes'"),
        ("vllm", {"prompt": "Think"}, "options.prompt: expected {question} in it"),
        ("scotd_30x", {"answer_pattern": "(.)"}, "r.answer_pattern: importer 'scotd_30x' parses answers by a rule of"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, importer, options, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?").replace("{", r"\{")):
        importing(tmp_path / "x", importer, **options)


# Files


def test_files_are_sorted_in_natural_order(tmp_path):
    for name in ("s10/a2.json", "s9/a10.json", "s9/a9.json"):
        write(tmp_path / name, [])
    names = [str(p.relative_to(tmp_path)) for p in expand_paths(f"{tmp_path}/s*/*.json", "w")]
    assert names == ["s9/a9.json", "s9/a10.json", "s10/a2.json"]
    for path, message in [
        ("s*/*.txt", "no file matches"),
        ("s9", "is a folder"),
        ("x", "is no file"),
        ("q/*", "no file"),
        ("**/x", r"one \* per folder"),
    ]:
        with pytest.raises(InputError, match=message):
            expand_paths(f"{tmp_path}/{path}", "w")
    with pytest.raises(InputError, match="w: needs the files"):
        expand_paths("", "w")


def test_several_files_make_one_set(tmp_path):
    """Rows without a sample index are numbered across the files. Equal indices in two files need `renumber=True`."""
    for k in (2, 10):
        write(tmp_path / f"p{k}.jsonl", [{"prompt": KETTLE, "completion": COMPLETION_A}], lines=True)
        write(tmp_path / f"b{k}.jsonl", [batch("k1#0", COMPLETION_A, id=f"{k}")], lines=True)
    rows, job = importing(tmp_path / "p*.jsonl", "prompt_completion")
    assert [(r.sample_index, r.model) for r in rows] == [(0, "p2"), (1, "p10")]
    assert {f: n["imported"] for f, n in job.ledger.to_json()["files"].items()} == {"p2.jsonl": 1, "p10.jsonl": 1}
    with pytest.raises(InputError, match=r"b10.jsonl line 1: sample 0 of .*/k1' came before.*renumber=True"):
        importing(tmp_path / "b*.jsonl", "openai_batch")
    rows, _ = importing(tmp_path / "b*.jsonl", "openai_batch", renumber=True, model="both", sampling="T=1")
    assert [(r.sample_index, r.model, r.sampling) for r in rows] == [(0, "both", "T=1"), (1, "both", "T=1")]


# Joining


def test_question_id_and_text_must_agree(tmp_path):
    row = {"id": "k1", "prompt": LADDER, "completion": COMPLETION_B}
    with pytest.raises(
        InputError, match="the id 'k1' belongs to 'home/train/k1', but the text belongs to 'home/train/k2'"
    ):
        importing(write(tmp_path / "p.json", [row]), "prompt_completion")
    assert short(importing(write(tmp_path / "p.json", [row | {"id": "k3"}]), "prompt_completion")[0])[0][0] == "k3"
    assert short(importing(write(tmp_path / "p.json", [row | {"id": "uuid"}]), "prompt_completion")[0])[0][0] == "k2"


def test_row_with_another_gold_answer_is_refused(tmp_path):
    row = {"problem": KETTLE, "answer": "B", "generations": [COMPLETION_A]}
    with pytest.raises(InputError, match=r"o.json row 1: the row's gold answer is '\(b\)'"):
        importing(write(tmp_path / "o.json", [row]), "open_r1")


def test_subset_option_skips_other_questions(tmp_path):
    rows = [
        {"prompt": KETTLE, "completion": COMPLETION_A},
        {"prompt": "Who is not in the config?", "completion": COMPLETION_A},
    ]
    path = write(tmp_path / "p.jsonl", rows, lines=True)
    with pytest.raises(InputError, match="p.jsonl line 2: none of the config's"):
        importing(path, "prompt_completion")
    kept, job = importing(path, "prompt_completion", subset=True)
    assert len(kept) == 1
    assert job.ledger.to_json()["total"]["skipped"] == {"no such question": 1}


def test_corpus_at_chance_level_is_refused(tmp_path):
    rows = [
        {"prompt": KETTLE, "completion": COMPLETION_A if i % 2 else COMPLETION_A.replace("(a)", "(b)")}
        for i in range(60)
    ]
    path = write(tmp_path / "p.jsonl", rows, lines=True)
    with pytest.raises(InputError, match=r"30 of 60 .*\(50.0%\), no better than chance \(50.0%\): .*wrong order"):
        importing(path, "prompt_completion")
    assert len(importing(path, "prompt_completion", allow_chance=True)[0]) == 60
    write(path, rows[:49], lines=True)
    assert len(importing(path, "prompt_completion")[0]) == 49, "too few rows for the test"
    write(path, [rows[1]] * 40 + [rows[0]] * 20, lines=True)  # guessing reaches it with probability 0.007
    assert len(importing(path, "prompt_completion")[0]) == 60
    write(path, [rows[1]] * 39 + [rows[0]] * 21, lines=True)  # 0.014
    with pytest.raises(InputError, match=r"39 of 60 .*no better than chance"):
        importing(path, "prompt_completion")
    write(path, [{"prompt": KETTLE, "completion": "The answer: A"}] * 60, lines=True)
    with pytest.raises(InputError, match=r"0 of 60 .*in 60 rows no answer could be parsed.*answer_pattern"):
        importing(path, "prompt_completion")


@pytest.mark.parametrize(
    ("answer", "form"),
    [("(B)", "(b)"), ("B.", "(b)"), ("b", "(b)"), (" ladder", "(b)"), ("(c)", None), ("soup or ladder", None)],
)
def test_answers_are_normalized_to_the_form_of_the_question(answer, form):
    assert normalize_answer(answer, QUESTIONS[1]) == form


def test_letters_become_texts_for_questions_answered_by_text():
    question = Question("x", "x", "x", "Good?", ("positive", "negative"), "negative")
    assert normalize_answer("(B)", question) == "negative"
