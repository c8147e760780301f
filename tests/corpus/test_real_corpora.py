"""Corpora of the three real sets of rationales with the real tokenizers: counted, and read back by everyone."""

import json

import pytest
import tensorflow as tf

from scotd_jax.corpus import tf_example
from scotd_jax.corpus.grouped_example import FEATURES, GroupedExample
from scotd_jax.corpus.reader import CorpusReader
from tests.helpers.cli import door

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
        rationales={{"said": c.FileSource(("t.train",), path=data + {files!r}, importer={importer!r})}},
        corpora={{
            k: c.Corpus(format="scotd" if k == "opt" else "t5", rationales=("said",), questions=({questions!r},))
            for k in models
        }},
        students={{k: c.Student(model=m, corpus=k, dev={dev!r}) for k, m in models.items()}},
    ))
"""
# Kind of task and its options, importer, files of responses, question sets of the corpus and of the evaluation.
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
BINS = {
    "quarel": {"kept": 8198, "wrong": 1447, "contaminated": 5},
    "openbookqa": {"kept": 10539, "wrong": 62, "unparsable": 25, "contaminated": 22, "not_selected": 98389},
    "commonsenseqa": {"kept": 7374, "wrong": 2182, "unparsable": 182, "contaminated": 3},
}
T5 = {"openbookqa": {"kept": 10534, "too_long": 5}}  # where its tokens are more than OPT's


@pytest.mark.parametrize("name", SETS)
def test_a_real_corpus_is_read_back_by_tensorflow_and_tfds(name, shared_data, tmp_path):
    import tensorflow_datasets as tfds

    files, importer, responses, questions, dev = SETS[name]
    text = CONFIG.format(
        data=str(shared_data),
        kind=name,
        options={"files": files} if files else {},
        importer=importer,
        files=f"/rationales/{importer}/{responses}",
        questions=questions,
        dev=dev,
    )
    (tmp_path / "config.py").write_text(text)
    done = door(f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/w", "--jobs=sample,build")
    assert done.returncode == 0, done.stderr
    schema = {key: tf.io.VarLenFeature(tf.string if "bytes" in text else tf.int64) for key, text in FEATURES.items()}
    for kind in ("opt", "t5"):
        folder = tmp_path / "w/corpora" / kind
        report = json.loads((folder / "ledger.json").read_text())
        bins = {bin_: count for bin_, count in report["bins"].items() if count}
        expected = BINS[name] | (T5.get(name, {}) if kind == "t5" else {})
        assert bins == expected
        assert report["total"] == sum(bins.values())
        reader = CorpusReader(folder, "train")
        examples = [reader[i] for i in range(len(reader))]
        assert sum(len(each.responses) for each in examples) == expected["kept"]
        records = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(f"{folder}/train-*.tfrecord"))).batch(512)
        theirs = []
        for batch in records.map(lambda records: tf.io.parse_example(records, schema)):
            rows = {key: tf.RaggedTensor.from_sparse(value).to_list() for key, value in batch.items()}
            theirs += [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        assert [GroupedExample.from_bytes(tf_example.encode(row), "tf.data") for row in theirs] == examples
        split = tfds.builder_from_directory(folder).as_dataset(split="train")
        found = {row["question_id"].decode(): row["responses"].tolist() for row in tfds.as_numpy(split)}
        assert found == {e.question_id: [token for response in e.responses for token in response] for e in examples}
