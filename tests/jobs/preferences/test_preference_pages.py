"""Preference pages: drawn by key, blind, and their choices read strictly; all without a browser."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.preferences.arms import find_arm
from scotd_jax.jobs.preferences.pages import draw_pairs, read_page
from scotd_jax.jobs.preferences.preference_commands import make_preference_page, read_preferences
from scotd_jax.jobs.report import report
from scotd_jax.jobs.sample import sample
from scotd_jax.records import Response, from_json
from scotd_jax.workdir_lock import lock_workdir
from tests.helpers.cli import run_cli
from tests.helpers.corpora import question, responses
from tests.helpers.html_page import Page
from tests.helpers.preference_run import evaluated, long_rows, preference_run, save_choices


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory) -> RunContext:
    """A run that tests only read, with a page of "long" and "short"."""
    run = preference_run(tmp_path_factory.mktemp("run"))
    make(run)
    return run


@pytest.fixture
def run(tmp_path) -> RunContext:
    return preference_run(tmp_path)


def make(run: RunContext, *arms: str, set_name: str | None = None, count: int = 100) -> Path:
    """Makes a page and returns its folder."""
    text = make_preference_page(run.config, str(run.workdir.root), arms or ("long", "short"), set_name, count)
    return Path(text.splitlines()[0]).parent


def read(run: RunContext) -> str:
    return read_preferences(run.config, str(run.workdir.root))


def prefer(folder: Path, arm: str) -> dict[str, str]:
    """The choices of an annotator who prefers arm "a" or "b" of every pair."""
    return {pair.question.id: "first" if pair.a_first == (arm == "a") else "second" for pair in read_page(folder).pairs}


# Making a page


def test_page_shows_pairs_that_can_be_compared_and_counts_the_others(shared_run):
    text = make_preference_page(shared_run.config, str(shared_run.workdir.root), ("long", "short"), None, 100)
    assert "5 pairs of long and short, drawn from 5 of 8 questions of t.test" in text
    assert "1 without a rationale of short" in text
    assert "1 with equal responses" in text
    assert "1 that belong to a drawn question" in text
    page = read_page(Path(text.splitlines()[0]).parent)
    ids = {pair.question.id for pair in page.pairs}
    assert ids - {"t/test/2", "t/test/3"} == {f"t/test/{i}" for i in range(4, 8)}
    assert all(pair.a.model == "long" and pair.b.model == "short" for pair in page.pairs)
    assert {pair.a_first for pair in page.pairs} == {True, False}


def test_html_is_blind_self_contained_and_escaped(shared_run):
    html = (make(shared_run) / "page.html").read_text()
    parsed = Page(html)
    assert {link for link in parsed.links if link != "data:,"} == set()
    assert not re.search(r"https?://|@import|url\(|\bsrc=", html)
    assert html.count("</script>") == 2, "a passage with </script> ends a script"
    data = json.loads(re.search(r'id="page-data">(.*?)</script>', html, re.DOTALL)[1])
    assert {key for pair in data["pairs"] for key in pair} == {"id", "context", "question", "first", "second"}
    assert {key for pair in data["pairs"] for key in pair["first"]} == {"rationale", "answer"}
    assert data["pairs"][0]["context"].endswith("</script>.")
    assert "the long arm" not in html
    assert not data["editable"]


def test_draw_and_sides_are_functions_of_the_key():
    questions = {f"t/train/{i}": question(i) for i in range(40)}
    a, b = ({row.question_id: row for row in responses(list(questions.values()), 1, name)} for name in "ab")

    def draw(count: int, seed: int = 0, reverse: bool = False) -> list[tuple[str, bool]]:
        items = dict(reversed(questions.items())) if reverse else questions
        pairs, _ = draw_pairs(items, a, b, ("a", "b"), count, seed)
        return [(pair.question.id, pair.a_first) for pair in pairs]

    assert draw(10) == draw(40)[:10] == draw(10, reverse=True)
    assert draw(40) != draw(40, seed=1)
    assert sorted(draw(40)) != draw(40)
    assert 10 <= sum(a_first for _, a_first in draw(40)) <= 30


def test_same_command_makes_the_same_page_and_keeps_its_choices(run):
    folder = make(run)
    save_choices(folder, "ann", prefer(folder, "a"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert make(run) == folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert make(run, count=3) != folder


@pytest.mark.parametrize(
    ("arms", "set_name", "message"),
    [
        (("long", "shrot"), None, r"--arms: 'shrot' is not defined; did you mean 'short'\?"),
        (("long", "long"), None, "the arms are equal; name two different ones"),
        (("x:1", "x:01"), None, "the arms are equal"),
        (("long",), None, r"--arms: expected two names, A,B, found 1: 'long'"),
        (("evaluation/long", "short"), None, r"--arms: 'evaluation' is not defined; did you mean 'evaluations'\?"),
        (("rationales/long", "short"), None, r"--arms: 'long' is not defined; there are x, y"),
        (("x", "y:last"), None, "expected the index of a sample after the colon, found 'last'"),
        (("long", "short"), "t.tset", r"--set: 't.tset' is not defined; did you mean 't.test'\?"),
        (("long", "x"), None, "have no question set in common: t.test and t.train"),
        (("x", "y:7"), None, "no pair of t.train can be compared; left out: 6 without a rationale of y:7"),
    ],
)
def test_wrong_arms_and_sets_are_refused(shared_run, arms, set_name, message):
    with pytest.raises(InputError, match=message):
        make(shared_run, *arms, set_name=set_name)


def test_folders_distinguish_an_evaluation_and_a_set_of_responses_of_one_name(shared_run):
    evals = shared_run.config.evals | {"x": dataclasses.replace(shared_run.config.evals["long"], arm="the x arm")}
    run = dataclasses.replace(shared_run, config=dataclasses.replace(shared_run.config, evals=evals))
    with pytest.raises(InputError, match=r"'x' is both an evaluation and a set of responses; write evaluations/x:1 or"):
        find_arm(run, "x:1")
    assert find_arm(run, "rationales/x:1").sets == ("t.train",)
    assert make(run, "rationales/x:1", "y").name.startswith("x_1-vs-y-")


def test_commands_are_refused_while_another_process_writes(run):
    folder = make(run)
    save_choices(folder, "ann", prefer(folder, "a"))
    with lock_workdir(run.workdir.root):
        for command in (make, read):
            with pytest.raises(InputError, match="in use by process .*Wait until it ends"):
                command(run)
    assert not (folder / "results.json").exists()


def test_incomplete_arm_is_refused(run):
    run.artefact("evaluate", "short").remove()
    with pytest.raises(InputError, match="short: not complete; run it first: --jobs=evaluate"):
        make(run)


# Reading choices


def test_results_are_a_table_and_json(run):
    folder = make(run)
    ids = [pair.question.id for pair in read_page(folder).pairs]
    save_choices(folder, "Ann", prefer(folder, "a"))
    save_choices(folder, "bob", prefer(folder, "a") | {ids[0]: "tie", ids[1]: prefer(folder, "b")[ids[1]]})
    save_choices(folder, "cy", {ids[2]: prefer(folder, "a")[ids[2]]})
    text = read(run)
    assert text.startswith("the long arm (A) against the short arm (B) on t.test, 5 pairs")
    assert re.search(r"all pairs +5 +4 +1 +0 +100.0 \(51.100\) +", text)
    assert "choices: Ann 5 of 5, bob 5 of 5, cy 1 of 5" in text
    results = json.loads((folder / "results.json").read_text())
    assert results["summaries"]["all pairs"]["a"] == 4
    correct = results["summaries"]["both answers correct"]
    assert correct["pairs"] == sum(pair.a.correct and pair.b.correct for pair in read_page(folder).pairs) < 5
    assert results["annotators"] == {"Ann": 5, "bob": 5, "cy": 1}
    assert results["left_out"]["with equal responses"] == 1
    assert results["alpha"] == pytest.approx(1 - (2 + 2) * 10 / (11**2 - 9**2 - 1 - 1))
    saved = [json.loads(path.read_text())["choices"] for path in (folder / "choices").iterdir()]
    assert results["first_rate"]["value"] == sum(list(each.values()).count("first") for each in saved) / 10


def damaged(changes: dict) -> dict:
    return {"annotator": "ann", "choices": {"t/test/4": "first"}} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page": "0123"}, "made on page '0123', but this folder has page"),
        ({"annotator": "  "}, "field 'annotator' is empty"),
        ({"choices": {}}, "has no choices"),
        (
            {"choices": {"t/test/0": "first"}},
            "field 'choices' has 1 entries for pairs that the page does not have: t/test/0",
        ),
        ({"choices": {"t/test/4": "left"}}, "the choice for 't/test/4' is 'left'; expected first, tie, second"),
        ({"choices": ["first"]}, "field 'choices' should be dict, found"),
        ({"edits": {"t/test/4": "better"}}, "has an edited rationale for 't/test/4', but the page has no editing"),
        ({"edits": {"t/test/99": "better"}}, "field 'edits' has 1 entries for pairs that the page does not have"),
        ({"note": ""}, "expected the fields page, annotator, choices, edits of a file saved on the page, found page,"),
    ],
)
def test_wrong_choice_files_are_refused(run, changes, message):
    folder = make(run)
    save_choices(folder, **damaged(changes))
    with pytest.raises(InputError, match=r"choices/.*json: " + message):
        read(run)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'{"page": ', b'{"page": "", "page": ""}'])
def test_files_of_another_kind_are_refused(run, content):
    (make(run) / "choices" / "ann.json").write_bytes(content)
    with pytest.raises(InputError, match=r"ann.json: (not a JSON file|expected the fields)"):
        read(run)


def test_one_annotator_has_one_file(run):
    folder = make(run)
    save_choices(folder, "Ann  B", prefer(folder, "a"))
    save_choices(folder, "ann b", prefer(folder, "a"))
    with pytest.raises(
        InputError, match=r"ann b.json: annotator 'ann b' is also that of Ann  B.json; remove the older"
    ):
        read(run)


def test_pages_without_choices_are_no_result(run):
    with pytest.raises(InputError, match=r"preferences: no file of an annotator in \*/choices/ \(0 pages\)"):
        read(run)
    (make(run) / "choices" / ".DS_Store").write_text("x")
    with pytest.raises(InputError, match=r"\(1 pages\)"):
        read(run)


def test_page_of_changed_responses_or_a_changed_page_is_refused(run):
    folder = make(run)
    save_choices(folder, "ann", prefer(folder, "a"))
    pairs = folder / "pairs.json"
    original = pairs.read_text()
    pairs.write_text(original.replace('"a_first": true', '"a_first": false'))
    with pytest.raises(InputError, match=r"pairs.json: was changed after it was written"):
        read(run)
    pairs.write_text("{}")
    with pytest.raises(InputError, match=r"pairs.json: not a file of make-preference-page"):
        read(run)
    pairs.write_text(original)
    evaluated(run, "long", long_rows([question(i, "test") for i in range(7)]))
    with pytest.raises(InputError, match=r"the responses of 'long' have changed since the page was made"):
        read(run)


def test_report_has_the_results_or_logs_why_not(run, capfd):
    folder = make(run)
    save_choices(folder, "ann", prefer(folder, "a"))
    without_evals = make_context(dataclasses.replace(run.config, evals={}), run.workdir)
    report(without_evals, "")
    page = Page((run.workdir.root / "report/index.html").read_text())
    assert "preferences" in page.ids
    assert "A: the long arm, B: the short arm" in page.words
    assert "ann: 5 of 5 pairs" in page.words
    save_choices(folder, "bob", {"t/test/0": "first"})
    report(without_evals, "")
    assert "preferences" not in Page((run.workdir.root / "report/index.html").read_text()).ids
    assert "the report shows no human preferences" in capfd.readouterr().err


# Preferred responses


def test_preferred_and_edited_responses_make_a_corpus(run, tmp_path):
    folder = make(run, "x:1", "y")
    pairs = read_page(folder).pairs
    ids = [pair.question.id for pair in pairs]
    edits = {ids[0]: "A better\n\nreason.", ids[1]: "Another reason."}
    save_choices(folder, "ann", prefer(folder, "a") | {ids[2]: "tie"}, edits=edits)
    save_choices(folder, "bob", {ids[1]: prefer(folder, "b")[ids[1]], ids[3]: prefer(folder, "a")[ids[3]]})
    assert f"4 preferred responses: {folder / 'picked.jsonl'}" in read(run)
    rows = [from_json(Response, line, "") for line in (folder / "picked.jsonl").read_text().splitlines()]
    assert [row.question_id for row in rows] == [ids[0], *ids[3:]], "ties of one or of two annotators are left out"
    assert rows[0].rationale == "A better\nreason."
    assert rows[0].text == f"A better\nreason. So the answer is: {rows[0].answer}"
    assert (rows[0].num_tokens, rows[0].sampling) == (0, "s, edited")
    assert [row.text for row in rows[1:]] == [pair.a.text for pair in pairs[3:]]
    source = c.FileSource(questions=("t.train",), path=str(folder / "picked.jsonl"))
    config = c.Config(
        tasks=run.config.tasks,
        rationales={"picked": source},
        corpora={"c": c.Corpus(rationales=("picked",), decontaminate=0)},
        students=run.config.students,
    )
    picked_run = make_context(config, run.workdir)
    sample(picked_run, "picked")
    build(picked_run, "c")
    kept = sum(bool(row.correct) for row in rows)
    ledger = json.loads((run.workdir.root / "corpora/c/ledger.json").read_text())
    assert ledger["bins"]["kept"] == kept > 0


# The command line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("make-preference-page",), "--arms is missing, for example --arms=n30_opt,label_opt; see --help"),
        (("make-preference-page", "--arms=a,b", "--jobs=plan"), "--jobs: has no effect on make-preference-page"),
        (("read-preferences", "--count=3"), "--count: has no effect on read-preferences"),
        (("--arms=a,b",), "--arms: has no effect without a command"),
        (("make-preference-page", "--arms=stduent,gold"), "--arms: 'stduent' is not defined; there are teacher, gold"),
        (("read-preferences",), "no file of an annotator in */choices/ (0 pages); make a page with"),
    ],
)
def test_commands_on_the_command_line(tmp_path, arguments, message):
    done = run_cli("--config=tests/configs/small_chain.py", f"--workdir={tmp_path}", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
