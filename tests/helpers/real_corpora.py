"""Configs that build corpora of the three real sets of rationales with real tokenizers (../shared/data)."""

from pathlib import Path

CONFIG = """
from scotd_jax import config as c

def get_config():
    data = {data!r}
    models = {{
        "opt": c.Model(architecture="opt-125m", tokenizer=data + "/tokenizers/opt"),
        "t5": c.Model(architecture="t5-small", tokenizer=data + "/tokenizers/t5/spiece.model"),
    }}
    models = {{name: models[name] for name in {families!r}}}
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


def write_config(folder: Path, kind: str, data: Path, families: tuple[str, ...] = ("opt", "t5")) -> Path:
    """Writes a config with one corpus per model family; returns its path."""
    files, importer, responses, questions, dev_sets = SETS[kind]
    text = CONFIG.format(
        data=str(data),
        families=families,
        kind=kind,
        options={"files": files} if files else {},
        importer=importer,
        files=f"/rationales/{importer}/{responses}",
        questions=questions,
        dev_sets=dev_sets,
    )
    path = folder / "config.py"
    path.write_text(text)
    return path
