"""Corpora of the three real sets of rationales with real tokenizers (../shared/data)."""

from pathlib import Path

from filelock import FileLock

from tests.helpers.cli import run_cli

CONFIG = """
from scotd_jax import config as c

def get_config():
    data = {data!r}
    models = {{
        "opt": c.Model(architecture="opt-125m", tokenizer=data + "/tokenizers/opt"),
        "t5": c.Model(architecture="t5-small", tokenizer=data + "/tokenizers/t5/spiece.model"),
    }}
    return c.config_dict(c.Config(
        tasks={{"t": c.Task({kind!r}, path=data + "/{kind}", options={options!r})}},
        rationales={{"imported": c.FileSource(("t.train",), path=data + {files!r}, importer={importer!r})}},
        corpora={{
            family: c.Corpus(
                format="scotd" if family == "opt" else "t5", rationales=("imported",), questions=({questions!r},)
            )
            for family in models
        }},
        students={{
            family: c.Student(model=model, corpus=family, dev_sets={dev_sets!r}) for family, model in models.items()
        }},
    ))
"""
# Task kind -> its files (empty: the defaults), importer, response files, question set of the corpus, dev sets.
SETS = {
    "quarel": (
        {"train": "../rationales/quarel_davinci003/train_gpt3_responses.jsonl.gz", "dev": "dev.jsonl"},
        "quarel_davinci003",
        "train_gpt3_responses.jsonl.gz",
        "t.train",
        ("t.dev",),
    ),
    "openbookqa": ({}, "openbookqa_multi", "*_ranked.json.gz", "t.train@0/10", ("t.dev", "t.test")),
    "commonsenseqa": ({}, "commonsenseqa_palm540b", "train_CoT_*.json.gz", "t.train", ("t.dev",)),
}


def build(root: Path, kind: str, data: Path) -> Path:
    """Imports a set of rationales, and builds a corpus of it for OPT and one for T5, if no process has done so yet.

    The largest set has 109,037 responses, so all tests share its corpora. The job runs in another process, since
    runtime type checks would take most of its time.

    Args:
      root: a folder that all processes of the test session share.
      kind: a key of SETS.
      data: ../shared/data.

    Returns:
      The work directory, with `rationales/imported`, `corpora/opt` and `corpora/t5`.
    """
    workdir = root / "real_corpora" / kind
    workdir.parent.mkdir(exist_ok=True)
    with FileLock(f"{workdir}.lock"):
        if not workdir.exists():
            config = write_config(workdir.with_suffix(".py"), kind, data)
            done = run_cli(f"--config={config}", f"--workdir={workdir}", "--jobs=sample,build")
            assert done.returncode == 0, done.stderr
    return workdir


def write_config(path: Path, kind: str, data: Path) -> Path:
    """Writes a config with one corpus per model family; returns `path`."""
    files, importer, responses, questions, dev_sets = SETS[kind]
    text = CONFIG.format(
        data=str(data),
        kind=kind,
        options={"files": files} if files else {},
        importer=importer,
        files=f"/rationales/{importer}/{responses}",
        questions=questions,
        dev_sets=dev_sets,
    )
    path.write_text(text)
    return path
