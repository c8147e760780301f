"""Tests of custom tasks: a small Python file, whose path is set as the `kind` of the task."""

import json
from pathlib import Path

import pytest

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.tasks.registry import load_task

RIDDLES = str(Path(__file__).parents[1] / "configs" / "riddles.py")


def own(kind, folder, **settings):
    return load_task("mine", config.Task(kind=str(kind), path=str(folder), **settings), 0)


def test_question_function_converts_the_rows_of_its_files(tmp_path):
    row = {"riddle": "What has keys  but opens no door?", "solution": "a piano", "hard": True}
    (tmp_path / "riddles_train.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "riddles_test.csv").write_text("riddle,solution\nWhat falls and never breaks?,night\n")
    task = own(RIDDLES, tmp_path)
    assert task.splits == ("train", "test")
    [train] = task.questions("train")
    assert train.text == "Solve this riddle:\nWhat has keys but opens no door?"
    assert (train.id, train.answer, train.tags) == ("mine/train/0", "a piano", ("hard",))
    assert task.questions("test")[0].text == "Solve this riddle:\nWhat falls and never breaks?"
    (tmp_path / "riddles_train.jsonl").write_text('{"riddle": "What?"}\n')
    with pytest.raises(
        InputError, match=r"riddles_train\.jsonl line 1: field 'solution' is missing; the row has riddle"
    ):
        own(RIDDLES, tmp_path).questions("train")


def test_rationales_function_gives_gold_responses(tmp_path):
    kind = tmp_path / "kind.py"
    kind.write_text(
        "def question(row):\n    return row.question(row.text('q'), row['a'])\n"
        "def rationales(row):\n    return [row['why'], '']\n"
    )
    (tmp_path / "train.jsonl").write_text('{"q": "1?", "a": "1", "why": "One  is one."}\n')
    [response] = own(kind, tmp_path).gold("train")
    assert (response.rationale, response.answer, response.text) == (
        "One is one.",
        "1",
        "One is one. So the answer is: 1",
    )
    (tmp_path / "train.jsonl").write_text('{"q": "1?", "a": "1", "because": "One is one."}\n')
    with pytest.raises(InputError, match=r"train\.jsonl line 1: field 'why' is missing; the row has q, a, because"):
        own(kind, tmp_path).gold("train")
    kind.write_text(kind.read_text().replace("[row['why'], '']", "row['because']"))
    with pytest.raises(InputError, match=r"line 1: .*returned one text, expected a list of texts: 'One is one.'"):
        own(kind, tmp_path).gold("train")


def test_message_about_a_row_of_many_fields_is_short(tmp_path):
    kind = tmp_path / "kind.py"
    kind.write_text("def question(row):\n    return row.question(row.text('q'), row['a'])\n")
    (tmp_path / "train.jsonl").write_text(json.dumps({f"field {i}": i for i in range(5000)}) + "\n")
    with pytest.raises(InputError, match="the row has field 0, .* field 7, ... .5,000 in all.$"):
        own(kind, tmp_path).questions("train")


def test_task_function_returns_a_complete_task(tmp_path):
    file = tmp_path / "counting.py"
    file.write_text(
        "from scotd_jax.records import Question\n"
        "from scotd_jax.tasks.base import SplitTask\n"
        "from scotd_jax.tasks.prompt_formats import get_prompt_format\n"
        "def task(name, spec, seed):\n"
        "    rows = [Question(f'{name}/all/{i}', name, 'all', f'{i} + 1 =', (), str(i + 1)) for i in range(seed)]\n"
        "    return SplitTask(name, get_prompt_format('plain'), {'all': lambda: (rows, [])}, spec.limit)\n"
    )
    task = load_task("counting", config.Task(kind=str(file), limit=2), 5)
    assert [q.answer for q in task.questions("all")] == ["1", "2"]


def test_every_file_is_a_split_by_default(tmp_path):
    kind = tmp_path / "kind.py"
    kind.write_text("def question(row):\n    return row.question(row.text('q'), row['a'])\n")
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text('{"q": "1?", "a": "1"}\n')
    (data / "test.tsv").write_text("q\ta\n2?\t2\n")
    (data / "notes.txt").write_text("no rows here")
    assert own(kind, data).splits == ("test", "train")
    (data / "test.json").write_text("[]")
    with pytest.raises(InputError, match=r"test\.json and .*test\.tsv are one split; set options\.files"):
        own(kind, data)


def test_files_without_a_task_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.tasks\.mine\.kind: .*gone\.py: no such file"):
        own(tmp_path / "gone.py", tmp_path)
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match=r"empty\.py: defines neither question\(row\) nor task\(name, spec, seed\)"):
        own(tmp_path / "empty.py", tmp_path)
    (tmp_path / "wrong.py").write_text("def question(row):\n    return row.question(row['q'][0], None)\n")
    (tmp_path / "train.jsonl").write_text('{"q": 3}\n')
    with pytest.raises(InputError, match=r"train\.jsonl line 1: reading it failed with TypeError"):
        own(tmp_path / "wrong.py", tmp_path).questions("train")
