"""Response store: a killed writer never loses or duplicates a row, and damaged files are refused."""

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scotd_jax.errors import InputError
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import to_json
from tests.helpers.kill_store import (
    MERGED,
    ORDER,
    ROWS,
    at_step,
    check_complete,
    hook_file_operations,
    row,
    run,
    run_to_the_end,
)


class Interrupted(BaseException):
    """An exception that ends a process, such as KeyboardInterrupt."""


def raise_(error):
    raise error


def jsonl(path, rows):
    """Writes rows as JSON lines; returns the path."""
    path.write_text("".join(to_json(r) + "\n" for r in rows))
    return path


def test_rows_are_merged_in_order(tmp_path):
    run(tmp_path)
    check_complete(tmp_path)
    rows = list(read_responses(sorted(tmp_path.iterdir())))
    assert sorted(r.key for r in rows) == sorted(r.key for r in ROWS)
    assert set(rows) == set(ROWS)


@pytest.mark.slow
def test_kill_9_at_every_step_neither_loses_nor_duplicates_rows(tmp_path):
    command = [sys.executable, "-m", "tests.helpers.kill_store", str(tmp_path)]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50  # steps of a run: writes, flushes, renames, removals


@pytest.mark.slow
def test_exception_at_every_step_neither_loses_nor_duplicates_rows(tmp_path):
    for step in itertools.count():
        folder, acknowledged = tmp_path / str(step), []
        try:
            with hook_file_operations(at_step(step, lambda name: raise_(Interrupted()))):
                run(folder, acknowledged.append)
        except Interrupted:
            assert {r.key for r in acknowledged} <= ResponseWriter(folder).written_keys()
            run_to_the_end(folder)
        else:
            break
    check_complete(folder)
    assert step > 50


@pytest.mark.parametrize(("full_at", "times"), [("half written", 5), ("before fsync", 11), ("before replace", 7)])
def test_full_disk_is_reported_and_loses_nothing(tmp_path, full_at, times):
    steps = []
    with hook_file_operations(steps.append):
        run(tmp_path / "complete")
    full = [step for step, name in enumerate(steps) if name == full_at]
    assert len(full) == times  # the run writes three parts and two merged files, and flushes each with its folder
    for step in full:
        folder, acknowledged = tmp_path / str(step), []
        hook = at_step(step, lambda name: raise_(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        with (
            hook_file_operations(hook),
            pytest.raises(InputError, match=r"responses.*: the disk is full.*free some space"),
        ):
            run(folder, acknowledged.append)
        assert not list(folder.rglob("*.partial"))
        assert {r.key for r in acknowledged} <= ResponseWriter(folder).written_keys()
        run_to_the_end(folder)


def test_written_keys_are_those_of_parts_and_merged_files(tmp_path):
    writer = ResponseWriter(tmp_path)
    assert writer.written_keys() == set()
    writer.write(ROWS[:3])
    assert ResponseWriter(tmp_path).written_keys() == {r.key for r in ROWS[:3]}
    writer.merge(ORDER, 2)
    assert ResponseWriter(tmp_path).written_keys() == {r.key for r in ROWS[:3]}
    writer = ResponseWriter(tmp_path)
    writer.write(ROWS[3:])
    assert writer.written_keys() == {r.key for r in ROWS}
    writer.merge(ORDER, 2)
    check_complete(tmp_path)


def test_merge_into_one_file_leaves_other_stems_alone(tmp_path):
    for stem in ["world.test.responses", "world.test.responses.n5"]:
        ResponseWriter(tmp_path, stem).write(ROWS)
    (path,) = ResponseWriter(tmp_path, "world.test.responses").merge(ORDER, None)
    assert path.name == "world.test.responses.jsonl"
    assert path.read_text().splitlines() == MERGED
    assert ResponseWriter(tmp_path, "world.test.responses.n5").written_keys() == {r.key for r in ROWS}
    assert len(list((tmp_path / "parts").iterdir())) == 1


@pytest.mark.parametrize(("shards", "order"), [(3, ORDER), (None, ORDER), (2, sorted(ORDER))])
@pytest.mark.parametrize("step", range(0, 40, 3))
def test_interrupted_merge_into_other_files_loses_nothing(tmp_path, shards, order, step):
    """New files have the names of old ones but other rows. An old file must stay until new files have its rows."""
    run(tmp_path)
    try:
        with hook_file_operations(at_step(step, lambda name: raise_(Interrupted()))):
            ResponseWriter(tmp_path).merge(order, shards)
    except Interrupted:
        assert ResponseWriter(tmp_path).written_keys() == {r.key for r in ROWS}
    paths = ResponseWriter(tmp_path).merge(order, shards)
    assert sorted(tmp_path.iterdir()) == [Path(p) for p in paths]
    assert [r.key for r in read_responses(paths)] == [(q, k) for q in order for k in range(3)]


def test_several_hosts_write_and_one_merges(tmp_path):
    hosts = [ResponseWriter(tmp_path, host=h) for h in range(3)]
    for h, writer in enumerate(hosts):
        writer.write(ROWS[h::3][:2])
    for h, writer in enumerate(hosts):
        writer.write(ROWS[h::3][2:])
    names = sorted(p.name[:19] for p in (tmp_path / "parts").iterdir())
    assert names == [f"responses-host0000{h}" for h in (0, 0, 1, 1, 2, 2)]
    hosts[0].merge(ORDER, 2)
    check_complete(tmp_path)


def test_merge_with_fewer_questions_than_shards(tmp_path):
    writer = ResponseWriter(tmp_path)
    writer.write(ROWS[:1])
    paths = writer.merge(ORDER, 5)
    assert [len(p.read_text().splitlines()) for p in paths].count(1) == 1
    assert len(paths) == 5


def test_writing_a_key_twice_is_refused(tmp_path):
    writer = ResponseWriter(tmp_path)
    writer.write(ROWS[:2])
    for rows in [ROWS[1:2], [ROWS[4]] * 2]:
        with pytest.raises(InputError, match=f"sample {rows[0].sample_index} of question '{rows[0].question_id}'"):
            writer.write(rows)
    with pytest.raises(InputError, match="written twice"):
        ResponseWriter(tmp_path).write(ROWS[:1])
    assert writer.written_keys() == {r.key for r in ROWS[:2]}


def test_conflicting_rows_of_two_runs_are_refused_and_kept(tmp_path):
    first, second = ResponseWriter(tmp_path), ResponseWriter(tmp_path, host=1)
    first.written_keys(), second.written_keys()  # both read the folder before either writes
    first.write([row("q0", 0)])
    second.write([row("q0", 0, "something else")])
    with pytest.raises(InputError, match=r"host00001.* line 1: sample 0 of question 'q0' is also in .*host00000"):
        first.merge(ORDER, 2)
    assert len(list((tmp_path / "parts").iterdir())) == 2


def test_row_of_an_unknown_question_is_refused_and_kept(tmp_path):
    writer = ResponseWriter(tmp_path)
    writer.write([row("q7", 0)])
    with pytest.raises(InputError, match=r"responses-host.* line 1: question 'q7' is not one of the set's questions"):
        writer.merge(ORDER, 2)
    assert writer.written_keys() == {("q7", 0)}


BROKEN = [
    ('{"question_id": "q0", ', "not a JSON object"),
    ("[]", "expected a JSON object"),
    ("", "not a JSON object"),
    (to_json(ROWS[1]).replace('"num_tokens"', '"tokens"'), "unknown field 'tokens'"),
    (to_json(ROWS[1]).replace(', "sampling": "greedy"', ""), "field 'sampling' is missing"),
    (to_json(ROWS[1]).replace('"sample_index": 1', '"sample_index": "1"'), "'sample_index' should be int"),
    (to_json(ROWS[1]).replace('"sample_index": 1', '"sample_index": -1'), "'sample_index' should be at least 0"),
    (to_json(ROWS[0]), "sample 0 of question 'q0' comes twice"),
    ("\udcff", "not UTF-8"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_broken_row_is_reported_with_file_and_line(tmp_path, line, message):
    path = jsonl(tmp_path / "mine.jsonl", ROWS[:1])
    with path.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(InputError, match=rf"mine\.jsonl line 2: .*{message}"):
        list(read_responses([path]))


def test_broken_part_is_reported_and_stops_the_run(tmp_path):
    ResponseWriter(tmp_path).write(ROWS[:3])
    (part,) = (tmp_path / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"{part.name} line 3: .*remove it: its rows will be sampled again"):
        ResponseWriter(tmp_path).written_keys()


def test_keys_must_be_unique_over_all_files(tmp_path):
    paths = [jsonl(tmp_path / "a.jsonl", ROWS[:2]), jsonl(tmp_path / "b.jsonl", ROWS[1:3])]
    with pytest.raises(InputError, match=r"b\.jsonl line 1: .*comes twice"):
        list(read_responses(paths))
    with pytest.raises(InputError, match=r"c\.jsonl: no such file"):
        list(read_responses([tmp_path / "c.jsonl"]))


def test_unusual_characters_and_a_missing_last_line_end(tmp_path):
    odd = row("q0", 0, 'line\u2028sep \x85 "quoted"\n\nand a 🙂')
    (tmp_path / "responses.jsonl").write_text(to_json(odd))
    assert list(read_responses([tmp_path / "responses.jsonl"])) == [odd]
    writer = ResponseWriter(tmp_path)
    writer.write([row("q0", 1)])
    assert list(read_responses(writer.merge(ORDER, None))) == [odd, row("q0", 1)]
