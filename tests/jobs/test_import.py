"""Tests of the sample job with imported files: work directory, messages, and three real corpora."""

import json
from pathlib import Path

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.sample import sample
from scotd_jax.rationales.importers.joining import FileImport
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import to_json
from scotd_jax.tasks.registry import load_task
from scotd_jax.workdir import Workdir
from tests.helpers.cli import run_cli
from tests.rationales.importers.test_importers import COMPLETION_A, KETTLE, QUESTIONS, write

FILE = '''"""One imported set of responses."""

from scotd_jax import config as c


def get_config():
    task = c.Task(kind="jsonl", path={folder!r})
    source = c.FileSource(questions=("home.train",), path={path!r}, importer="prompt_completion")
    return c.config_dict(c.Config(name="x", tasks={{"home": task}}, rationales={{"sampled": source}}))
'''


@pytest.fixture
def home(tmp_path) -> Path:
    """Returns a folder with questions and two files of responses, one of which has a broken row."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task/train.jsonl").write_text("".join(to_json(q) + "\n" for q in QUESTIONS))
    good, bad = {"prompt": KETTLE, "completion": COMPLETION_A}, {"prompt": KETTLE}
    write(tmp_path / "sampled/1.jsonl", [good, good], lines=True)
    write(tmp_path / "sampled/2.jsonl", [good, bad, good], lines=True)
    return tmp_path


def run(home: Path, skip_bad: bool = False, **fields) -> Path:
    """Runs the job and returns the folder of the set."""
    task = c.Task(kind="jsonl", path=str(home / "task"))
    fields = {"path": f"{home}/sampled/*.jsonl", "importer": "prompt_completion"} | fields
    source = c.FileSource(questions=("home.train",), **fields)
    config = c.Config(tasks={"home": task}, rationales={"sampled": source})
    sample(make_context(config, Workdir(str(home / "w")), skip_bad), "sampled")
    return home / "w/rationales/sampled"


@pytest.mark.slow
def test_bad_rows_stop_the_job_or_are_counted(home):
    config = home / "config.py"
    config.write_text(FILE.format(folder=str(home / "task"), path=f"{home}/sampled/*.jsonl"))
    flags = (f"--config={config}", f"--workdir={home / 'w'}", "--jobs=sample")
    done = run_cli(*flags)
    assert done.returncode == 2
    assert f"error: {home}/sampled/2.jsonl line 2: field 'completion' is missing" in done.stderr
    assert not (home / "w/rationales/sampled").exists(), "no partial result remains"
    done = run_cli(*flags, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "4 of 5 rows imported (skipped: 1 missing field)" in done.stderr
    folder = home / "w/rationales/sampled"
    ledger = json.loads((folder / "ledger.json").read_text())
    assert ledger["files"]["2.jsonl"] == {
        "read": 3,
        "imported": 2,
        "skipped": {"missing field": {"rows": 1, "first": [f"{home}/sampled/2.jsonl line 2"]}},
        "right": 2,
        "wrong": 0,
        "no_answer": 0,
        "no_gold": 0,
        "no_rationale": 0,
        "questions": 1,
    }
    assert ledger["total"]["skipped"] == {"missing field": 1}
    assert json.loads((folder / "manifest.json").read_text())["counts"]["skipped"] == 1


def test_finished_import_is_skipped_and_changed_files_are_refused(home):
    folder = run(home, skip_bad=True)
    before = {p: p.read_bytes() for p in folder.rglob("*.json*")}
    run(home)
    assert {p: p.read_bytes() for p in folder.rglob("*.json*")} == before
    write(home / "sampled/3.jsonl", [], lines=True)
    with pytest.raises(InputError, match=r"made by another configuration: files./.*3.jsonl"):
        run(home, skip_bad=True)


def test_import_states_how_many_responses_have_no_answer_and_no_rationale(home, capfd):
    rows = [{"prompt": KETTLE, "completion": text} for text in (COMPLETION_A, "(a)", "(b)", "Heat does it.")]
    write(home / "sampled/1.jsonl", rows, lines=True)
    folder = run(home, path=f"{home}/sampled/1.jsonl")
    lines = capfd.readouterr().err
    assert "4 of 4 rows imported; 1 without an answer, 3 without a rationale" in lines
    assert "no_answer 1, no_rationale 3" in lines
    total = json.loads((folder / "ledger.json").read_text())["total"]
    assert (total["right"], total["wrong"], total["no_answer"], total["no_rationale"]) == (2, 1, 1, 3)


def test_refused_import_leaves_no_files(home):
    with pytest.raises(InputError, match="2.jsonl line 2"):
        run(home)
    folder = run(home, path=f"{home}/sampled/1.jsonl")
    rows = list(read_responses(sorted(folder.glob("responses-*.jsonl"))))
    assert [(r.sample_index, r.answer, r.correct, r.model) for r in rows] == [
        (0, "(a)", True, "1"),
        (1, "(a)", True, "1"),
    ]


def test_sampled_responses_can_be_imported(home):
    folder = run(home, skip_bad=True)
    rows = list(read_responses(sorted(folder.glob("responses-*.jsonl"))))
    spec = c.FileSource(path=f"{folder}/responses-*.jsonl", importer="responses")
    task = load_task("home", c.Task(kind="jsonl", path=str(home / "task")), 0)
    questions_by_id = {q.id: (q, task) for q in task.questions("train")}
    assert list(FileImport(spec, "r").responses(questions_by_id)) == rows


def test_release_can_be_requested_later(home):
    folder = run(home, skip_bad=True)
    assert not (folder / "release").exists()
    run(home, release="jsonl")
    assert len((folder / "release/data/train-00000-of-00001.jsonl").read_text().splitlines()) == 4
    run(home, release="parquet")
    assert [p.name for p in (folder / "release/data").iterdir()] == ["train-00000-of-00001.parquet"]


# The real corpora: every count was computed on these files.

OPENBOOKQA = {  # right, wrong, without an answer
    "obqa_gemini_level1": (4956, 1, 0),
    "obqa_gemini_level2": (4956, 0, 1),
    "obqa_gemini_level3": (4953, 0, 4),
    "obqa_gemini_level4": (4894, 0, 63),
    "obqa_gemini_level5": (4956, 0, 1),
    "obqa_gemini_level6": (4953, 2, 2),
    "obqa_llama_level1": (4945, 4, 8),
    "obqa_llama_level2": (4943, 4, 10),
    "obqa_llama_level3": (4944, 2, 11),
    "obqa_llama_level4": (4952, 4, 1),
    "obqa_llama_level5": (4953, 3, 1),
    "obqa_llama_level6": (4951, 4, 2),
    "openbookQA_ChatGPT_0_shot_with_gt": (4927, 9, 20),
    "openbookQA_ChatGPT_0_shot_without_gt": (4628, 266, 61),
    "openbookQA_chatgpt_level_1": (4937, 15, 4),
    "openbookQA_chatgpt_level_2": (4937, 17, 1),
    "openbookQA_chatgpt_level_3": (4930, 19, 6),
    "openbookQA_chatgpt_level_4": (4934, 19, 3),
    "openbookQA_chatgpt_level_5": (4935, 15, 4),
    "openbookQA_chatgpt_level_6": (4938, 16, 2),
    "openbookqa_chatgpt_bsm_level3": (4932, 19, 4),
    "openbookqa_chatgpt_rar_level3": (4932, 19, 4),
}


def load_questions(folder: Path, file: str, layout: str = "line"):
    task = c.Task(kind="multiple_choice", path=str(folder), options={"files": {"train": file}, "layout": layout})
    loaded = load_task("t", task, 0)
    return {q.id: (q, loaded) for q in loaded.questions("train")}


@pytest.mark.exhaustive
def test_import_of_openbookqa_from_three_teachers(real_corpora):
    folder = real_corpora("openbookqa") / "rationales/imported"
    ledger = json.loads((folder / "ledger.json").read_text())
    counted = {
        file.removesuffix("_ranked.json.gz"): (n["right"], n["wrong"], n["no_answer"])
        for file, n in ledger["files"].items()
    }
    assert counted == OPENBOOKQA
    assert (ledger["total"]["read"], ledger["total"]["imported"], ledger["total"]["questions"]) == (
        109037,
        109037,
        4952,
    )
    samples: dict[str, list[int]] = {}
    for file in folder.glob("responses-*.jsonl"):
        for row in map(json.loads, file.read_text().split("\n")[:-1]):
            samples.setdefault(row["question_id"], []).append(row["sample_index"])
    assert all(indices == list(range(len(indices))) for indices in samples.values())
    counts = sorted(map(len, samples.values()))
    assert counts[:7] == [12, 19, 21, 21, 21, 21, 22]
    assert counts[-6:] == [22, 44, 44, 44, 44, 44], "the five doubled questions"


@pytest.mark.exhaustive
def test_import_of_commonsenseqa_from_palm(real_corpora, shared_data, tmp_path):
    folder = real_corpora("commonsenseqa") / "rationales/imported"
    assert sum("\n\n" in row.text for row in read_responses(sorted(folder.glob("responses-*.jsonl")))) == 0
    total = json.loads((folder / "ledger.json").read_text())["total"]
    assert (total["read"], total["right"], total["no_answer"], total["questions"]) == (9741, 7377, 182, 9741)
    # A join by row, in the order of the question file, pairs responses with wrong questions: accuracy is near chance.
    questions_by_id = load_questions(shared_data / "commonsenseqa", "train_rand_split.jsonl", "block")
    (tmp_path / "ids.txt").write_text("".join(f"{id_}\n" for id_ in questions_by_id))
    path = f"{shared_data}/rationales/commonsenseqa_palm540b/train_CoT_*.json.gz"
    by_row = c.FileSource(path=path, importer="commonsenseqa_palm540b", options={"ids": str(tmp_path / "ids.txt")})
    with pytest.raises(InputError, match=r"of 9741 .*\(20.5%\), no better than chance \(20.0%\): .*wrong order"):
        list(FileImport(by_row, "r").responses(questions_by_id))


@pytest.mark.slow
def test_import_of_commonsenseqa_dev_from_palm(shared_data):
    questions_by_id = load_questions(shared_data / "commonsenseqa", "dev_rand_split.jsonl")
    path = f"{shared_data}/rationales/commonsenseqa_palm540b/test_CoT_*.json.gz"
    job = FileImport(c.FileSource(path=path, importer="commonsenseqa_palm540b"), "r")
    list(job.responses(questions_by_id))
    total = job.ledger.to_json()["total"]
    assert (total["read"], total["right"], total["no_answer"]) == (1221, 961, 16)


@pytest.mark.slow
def test_import_of_quarel_from_davinci(real_corpora):
    """The questions are read from the file of rationales itself."""
    folder = real_corpora("quarel") / "rationales/imported"
    total = json.loads((folder / "ledger.json").read_text())["total"]
    assert (total["read"], total["imported"], total["right"], total["no_answer"]) == (9650, 9650, 8203, 0)
    written = list(read_responses(sorted(folder.glob("responses-*.jsonl"))))
    assert len(written) == 9650
    assert {r.sample_index for r in written} == set(range(5)), "equal texts stay five samples"
    assert json.loads((folder / "manifest.json").read_text())["counts"]["correct_share"] == 0.8501
