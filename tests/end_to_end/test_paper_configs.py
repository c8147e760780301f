"""Every config of a paper runs from its first job to its report, with tiny models and few questions.

Reads the files of a task from ../shared/data if they are there, else the invented ones of configs/data.
"""

import json
from pathlib import Path

import pytest

from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.rationales.store import read_responses
from tests.helpers.cli import ROOT, run_cli

pytestmark = pytest.mark.slow

SHARED = ROOT.parent / "shared" / "data"


def run(tmp_path: Path, config: str, *settings: str, folder: str = "", flags: tuple[str, ...] = ()) -> Path:
    """Runs a config with `runlocal` and returns its work directory. Uses the real files of `folder` if they exist."""
    if folder and (SHARED / folder).is_dir():
        settings = (*settings, f"data={SHARED}")
    settings = ",".join(("runlocal", *settings))
    done = run_cli(f"--config=configs/{config}.py:{settings}", f"--workdir={tmp_path}", *flags, fast_compilation=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    page = (tmp_path / "report" / "index.html").read_text()
    baseline = "standard fine-tuning" if config == "step_by_step" else "label only"
    arms = ("teacher, few-shot", "untrained, zero-shot", "untrained, few-shot", baseline)
    places = [page.index(f'<th scope="row">{arm}') for arm in arms]
    assert places == sorted(places), "the arms before distillation are above the students"
    return tmp_path


def manifest(workdir: Path, kind: str, name: str) -> dict:
    return json.loads((workdir / kind / name / "manifest.json").read_text())


def examples(workdir: Path, corpus: str, part: str = "train") -> list[GroupedExample]:
    reader = CorpusReader(workdir / "corpora" / corpus, part)
    return [reader[i] for i in range(len(reader))]


@pytest.mark.exhaustive
def test_scotd_with_opt(tmp_path):
    workdir = run(tmp_path, "scotd", "task=obqa", "student=opt-125m", folder="openbookqa")
    assert {path.name for path in (workdir / "students").iterdir()} == {
        *("local_teacher", "label", "greedy", "n1", "n5", "n30", "label_few", "greedy_few", "n30_few"),
    }
    assert (workdir / "exports/n30/model.safetensors").exists()


def test_scotd_with_t5_and_controls(tmp_path):
    flags = ("--config.evaluation.read=both",)
    workdir = run(tmp_path, "scotd", "task=quarel", "student=t5-small", "controls=1", flags=flags)
    for path in (workdir / "evaluations").glob("*/results.json"):
        choices = json.loads(path.read_text())["choices"]["sets"]["quarel.test"]
        assert choices["format_failure_rate"] == 0, path
    page = (workdir / "report/index.html").read_text()
    for arm in ("label only", "answer first", "words shuffled", "another question"):
        assert arm in page
    by_arm = [examples(workdir, name)[0].responses for name in ("n30", "shuffled", "answer_first")]
    plain, shuffled, first = ([sorted(response) for response in responses] for responses in by_arm)
    assert plain == shuffled, "the same words"
    assert by_arm[0] != by_arm[1], "in another order"
    assert plain != first, "another marker"


def test_imdb_pairs_are_counted(tmp_path):
    results = json.loads((run(tmp_path, "imdb") / "evaluations/n30/results.json").read_text())
    assert set(results["sets"]) == {"imdb_contrast.test", "imdb_contrast.contrast"}
    assert results["contrast"]["n"] == 3


def test_transfer_shows_exemplars_of_the_unseen_task(tmp_path):
    workdir = run(tmp_path, "transfer")
    assert manifest(workdir, "rationales", "sampled")["counts"]["no_answer"] == 0, "the teacher has learned the marker"
    assert manifest(workdir, "corpora", "n30")["identity"]["spec"]["few_shot"] == 1
    assert {example.task for example in examples(workdir, "label")} == {"anli", "csqa", "obqa"}
    assert set(json.loads((workdir / "evaluations/n30/results.json").read_text())["sets"]) == {"sst2.dev"}


def test_step_by_step_has_two_parts_with_the_same_questions(tmp_path):
    workdir = run(tmp_path, "step_by_step", "alpha=0.25", folder="commonsenseqa")
    predict, explain = (examples(workdir, "step_by_step", part) for part in ("predict", "explain"))
    assert [example.question_id for example in predict] == [example.question_id for example in explain]
    rows = [json.loads(line) for line in (workdir / "students/step_by_step/metrics.jsonl").read_text().splitlines()]
    row = next(row for row in rows if "loss" in row)
    assert row["loss"] == pytest.approx(0.25 * row["loss_predict"] + 0.75 * row["loss_explain"], rel=0.05)


def test_scicot_is_cross_fitted(tmp_path):
    """No rationale in the corpus of the second stage comes from a model that was trained on its question.

    The manifests and files of the work directory prove it.
    """
    workdir = run(tmp_path, "scicot", "task=arc_easy", folder="arc")
    sources = manifest(workdir, "corpora", "stage2_own")["identity"]["rationales"]
    folds = sorted(path.name for path in (workdir / "rationales").glob("fold_*"))
    assert sources == [manifest(workdir, "rationales", fold)["digest"] for fold in folds]
    seen = set()
    for fold in folds:
        model = manifest(workdir, "rationales", fold)["identity"]["model"]
        name = model["config"]["student"]
        assert model["student"] == manifest(workdir, "students", name)["digest"]
        corpus = manifest(workdir, "students", name)["identity"]["spec"]["corpus"]
        assert (
            manifest(workdir, "students", name)["identity"]["corpus"] == manifest(workdir, "corpora", corpus)["digest"]
        )
        reader = CorpusReader(workdir / "corpora" / corpus, "train")
        trained_on = {reader[i].question_id for i in range(len(reader))}
        generated_for = {
            row.question_id for row in read_responses(sorted((workdir / "rationales" / fold).glob("resp*.jsonl")))
        }
        assert trained_on
        assert generated_for
        assert not trained_on & generated_for
        seen |= generated_for
    assert {example.question_id for example in examples(workdir, "stage2_own")} <= seen
    arms = {path.name for path in (workdir / "evaluations").iterdir()}
    assert {"label", "one", "stage2", "stage2_own", "stage2_vote", "stage2_sum", "stage2_own_empty"} <= arms


def test_user_defined_task_and_recipe(tmp_path):
    done = run_cli("--config=tests/configs/cascade.py", f"--workdir={tmp_path}", fast_compilation=True)
    assert done.returncode == 0, done.stderr
    assert len(examples(tmp_path, "cascade", "conclude")) == 6, "one prompt per rationale"
    page = (tmp_path / "report/index.html").read_text()
    assert "cascade” answers" in page, "it generates its own rationales, and is a student"
    rows = list(read_responses([tmp_path / "evaluations/cascade/riddles.test.responses.jsonl"]))
    own = list(read_responses(sorted((tmp_path / "rationales/own").glob("responses-*.jsonl"))))
    assert [row.rationale for row in rows] == [row.rationale for row in own], (
        "every answer belongs to its own rationale"
    )
