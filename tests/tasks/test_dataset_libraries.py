"""Tests of rows from `datasets` and `tensorflow-datasets`, read from folders that the tests create."""

import datasets
import numpy as np
import pytest

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.tasks.dataset_libraries import plain_row
from scotd_jax.tasks.registry import load_task

NLI_LABELS = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])

# A row of every dataset in the form of the Hub, and the answer of its question.
HUB = {
    "commonsenseqa": (
        {
            "id": "c1",
            "question": "What barks?",
            "question_concept": "dog",
            "choices": {"label": ["A", "B"], "text": ["cat", "dog"]},
            "answerKey": "B",
        },
        "(b)",
    ),
    "openbookqa": (
        {
            "id": "o1",
            "question_stem": "A dog",
            "choices": {"text": ["barks", "sings"], "label": ["A", "B"]},
            "answerKey": "A",
        },
        "(a)",
    ),
    "arc": (
        {"id": "e1", "question": "Name", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        "(b)",
    ),
    "quarel": (
        {"id": "q1", "answer_index": 1, "question": "Smoother? (A) wool (B) glass", "logical_forms": ["(infer)"]},
        "(b)",
    ),
    "sst2": ({"idx": 0, "sentence": "a joy .", "label": 1}, "positive"),
    "imdb": ({"text": "Bad.", "label": 0}, "negative"),
    "strategyqa": ({"qid": "s1", "question": "Can a cow read?", "answer": False, "facts": "None reads."}, "no"),
    "boolq": ({"question": "do cows swim", "answer": True, "passage": "Cows swim."}, "yes"),
    "gsm8k": ({"question": "2 + 2?", "answer": "2+2=4\n#### 4"}, "4"),
    "svamp": ({"ID": "v1", "Body": "Bo has 8 figs.", "Question": "And 2 more?", "Answer": "10.0"}, "10"),
    "anli": (
        {"uid": "u1", "premise": "A dog runs.", "hypothesis": "It is fun.", "label": 1, "reason": ""},
        "it is not possible to tell",
    ),
    "esnli": ({"premise": "A dog runs.", "hypothesis": "It sleeps.", "label": 2, "explanation_1": "It runs."}, "no"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def questions(kind, path, split, **settings):
    return load_task(kind, config.Task(kind=kind, path=path, **settings), 0).questions(split)


@pytest.mark.parametrize("kind", HUB)
def test_hub_rows_become_questions(kind, tmp_path):
    row, answer = HUB[kind]
    table = datasets.Dataset.from_list([row])
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(tmp_path / "saved")
    for split in ("train", "dev"):
        [question] = questions(kind, f"datasets:{tmp_path}/saved", split)
        assert question.answer == answer
        assert question.id.startswith(f"{kind}/{split}/")


def test_class_labels_of_the_hub_are_integers(tmp_path):
    features = datasets.Features(
        {**{k: datasets.Value("string") for k in ("premise", "hypothesis")}, "label": NLI_LABELS}
    )
    rows = [{"premise": "A dog runs.", "hypothesis": "It moves.", "label": label} for label in (0, 2, -1)]
    splits = {f"train_r{i}": datasets.Dataset.from_list(rows[: i + 1], features) for i in (1, 2)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    path = f"datasets:{tmp_path}/saved"
    assert [q.answer for q in questions("anli", path, "train", options={"round": 2})] == ["yes", "no", None]
    assert [q.answer for q in questions("anli", path, "train", options={"round": 1})] == ["yes", "no"]
    assert len(questions("anli", path, "train_r1")) == 2, "round 3 is the default, and the others keep their names"


def test_folders_of_json_lines_and_saved_splits_are_read(tmp_path):
    table = datasets.Dataset.from_list([HUB["gsm8k"][0]])
    (tmp_path / "plain").mkdir()
    table.to_json(tmp_path / "plain" / "train.jsonl")
    assert [q.answer for q in questions("gsm8k", f"datasets:{tmp_path}/plain", "train")] == ["4"]
    table.save_to_disk(tmp_path / "one")
    assert [q.id for q in questions("gsm8k", f"datasets:{tmp_path}/one", "train")] == ["gsm8k/train/0"]


def test_malformed_hub_row_is_reported_with_its_number(tmp_path):
    datasets.Dataset.from_list([{"question": "2 + 2?", "answer": "four"}]).save_to_disk(tmp_path / "one")
    with pytest.raises(
        InputError, match=r"datasets:.*/one split train row 1: expected a number as answer, found 'four'"
    ):
        questions("gsm8k", f"datasets:{tmp_path}/one", "train")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "datasets:nobody/nothing/here",
            r"config\.tasks\.gsm8k\.path: datasets:nobody/nothing/here cannot be loaded: ",
        ),
        ("datasets:", r"path: 'datasets:' names no dataset; expected datasets:NAME or datasets:FOLDER"),
        ("tfds:no_such_dataset", r"path: tfds:no_such_dataset cannot be loaded: DatasetNotFoundError"),
    ],
)
def test_names_that_cannot_be_loaded_are_refused(path, message):
    with pytest.raises(InputError, match=message):
        questions("gsm8k", path, "train")


def test_names_are_split_into_dataset_and_configuration(monkeypatch):
    loaded = []
    table = {"validation": [HUB["arc"][0]]}
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: loaded.append(names) or table)
    assert questions("arc", "datasets:allenai/ai2_arc/ARC-Easy", "dev")[0].answer == "(b)"
    questions("arc", "datasets:mine", "dev")
    assert loaded == [("allenai/ai2_arc", "ARC-Easy"), ("mine", None)]


# -- tensorflow-datasets ---------------------------------------------------------------------------------------------


def tfds_folder(folder, features, shards, split="train"):
    """Writes a dataset in the layout of tfds, one file per list of rows; returns its path for a config."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    folder.mkdir()
    features = tfds.features.FeaturesDict(features)
    for i, rows in enumerate(shards):
        name = f"tiny-{split}.tfrecord-{i:05d}-of-{len(shards):05d}"
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for row in rows:
                writer.write(features.serialize_example(features.encode_example(row)))
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    )
    return f"tfds:{folder}"


def test_tfds_openbookqa_rows(tmp_path):
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    features = {
        "question": {"stem": text, **{f"choice_{x}": text for x in "ABCD"}},
        "answerKey": tfds.features.ClassLabel(names=list("ABCD")),
    }
    rows = [
        {"question": {"stem": stem, **{f"choice_{x}": f"{x} é" for x in "ABCD"}}, "answerKey": key}
        for stem, key in (("First", "C"), ("Second", "A"), ("Third", "D"))
    ]
    path = tfds_folder(tmp_path / "tiny", features, [rows[:2], rows[2:]])
    found = questions("openbookqa", path, "train")
    assert [(q.id, q.answer) for q in found] == [
        ("openbookqa/train/0", "(c)"),
        ("openbookqa/train/1", "(a)"),
        ("openbookqa/train/2", "(d)"),
    ]
    assert found[0].text == "First (a) A é (b) B é (c) C é (d) D é"
    assert len(questions("openbookqa", path, "train", limit=2)) == 2


def test_tfds_arc_and_boolq_rows(tmp_path):
    import tensorflow_datasets as tfds

    text, label = tfds.features.Text(), tfds.features.ClassLabel(names=list("ABCDE"))
    features = {
        "id": text,
        "question": text,
        "choices": tfds.features.Sequence({"text": text, "label": label}),
        "answerKey": label,
    }
    row = {
        "id": "x7",
        "question": "Name",
        "choices": {"text": ["u", "v", "w"], "label": ["A", "B", "C"]},
        "answerKey": "C",
    }
    [question] = questions("arc", tfds_folder(tmp_path / "arc", features, [[row]]), "train")
    assert (question.text, question.answer, question.id) == ("Name (a) u (b) v (c) w", "(c)", "arc/train/x7")
    features = {"question": text, "passage": text, "answer": np.bool_, "title": text}
    row = {"question": "do cows swim", "passage": "Cows swim.", "answer": False, "title": "Cow"}
    [question] = questions("boolq", tfds_folder(tmp_path / "boolq", features, [[row]], "validation"), "dev")
    assert (question.answer, question.context) == ("no", "Cows swim.")


def test_plain_row_converts_bytes_and_numpy_values():
    row = {
        "a": b"\xc3\xa9",
        "b": np.int64(3),
        "c": np.array([b"x", b"y"], object),
        "d": {"e": np.bool_(True)},
        "f": None,
    }
    assert plain_row(row) == {"a": "é", "b": 3, "c": ["x", "y"], "d": {"e": True}, "f": None}
