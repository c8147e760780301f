"""The store of responses: nothing lost, nothing doubled, whenever the writer dies; strict reading."""

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
from tests.helpers.killed_store import MERGED, ORDER, ROWS, check_complete, row, run, run_whole, strike_at, striking


class Cut(BaseException):
    """Stands for whatever ends a process in good order (Ctrl-C, SIGTERM turned into an exception)."""


def raise_(error):
    raise error


def jsonl(path, rows):
    path.write_text("".join(to_json(r) + "\n" for r in rows))
    return path


def test_rows_come_back_sorted_whatever_the_batches(tmp_path):
    run(tmp_path)
    check_complete(tmp_path)
    rows = list(read_responses(sorted(tmp_path.iterdir())))
    assert sorted(r.key for r in rows) == sorted(r.key for r in ROWS)
    assert set(rows) == set(ROWS)


def test_kill_9_at_every_step_loses_and_doubles_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.helpers.killed_store", str(tmp_path)]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50  # steps of one run: rows, flushes, renames, removals


def test_an_exception_at_every_step_loses_and_doubles_nothing(tmp_path):
    for step in itertools.count():
        folder, acknowledged = tmp_path / str(step), []
        try:
            with striking(strike_at(step, lambda what: raise_(Cut()))):
                run(folder, acknowledged.append)
        except Cut:
            assert {r.key for r in acknowledged} <= ResponseWriter(folder).written_keys()
            run_whole(folder)
        else:
            break
    check_complete(folder)
    assert step > 50


@pytest.mark.parametrize(("full_at", "times"), [("half written", 5), ("before fsync", 11), ("before replace", 7)])
def test_a_full_disk_is_said_and_loses_nothing(tmp_path, full_at, times):
    steps = []
    with striking(steps.append):
        run(tmp_path / "dry")
    full = [step for step, what in enumerate(steps) if what == full_at]
    assert len(full) == times  # three parts and two merged files, each flushed with its folder
    for step in full:
        folder, acknowledged = tmp_path / str(step), []
        strike = strike_at(step, lambda what: raise_(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        with striking(strike), pytest.raises(InputError, match=r"responses.*: the disk is full.*free some space"):
            run(folder, acknowledged.append)
        assert not list(folder.rglob("*.partial"))
        assert {r.key for r in acknowledged} <= ResponseWriter(folder).written_keys()
        run_whole(folder)


def test_done_counts_parts_and_merged_files(tmp_path):
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


def test_one_file_and_other_stems_beside_it(tmp_path):
    for stem in ["world.test.responses", "world.test.responses.n5"]:
        ResponseWriter(tmp_path, stem).write(ROWS)
    (path,) = ResponseWriter(tmp_path, "world.test.responses").merge(ORDER, None)
    assert path.name == "world.test.responses.jsonl"
    assert path.read_text().splitlines() == MERGED
    assert ResponseWriter(tmp_path, "world.test.responses.n5").written_keys() == {r.key for r in ROWS}
    assert len(list((tmp_path / "parts").iterdir())) == 1


@pytest.mark.parametrize(("shards", "order"), [(3, ORDER), (None, ORDER), (2, sorted(ORDER))])
@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_merging_anew_in_another_shape_is_safe_too(tmp_path, shards, order, cut):
    """Rows move between files whose names stay: an old file must not go before its rows are in a new one."""
    run(tmp_path)
    try:
        with striking(strike_at(cut, lambda what: raise_(Cut()))):
            ResponseWriter(tmp_path).merge(order, shards)
    except Cut:
        assert ResponseWriter(tmp_path).written_keys() == {r.key for r in ROWS}
    paths = ResponseWriter(tmp_path).merge(order, shards)
    assert sorted(tmp_path.iterdir()) == [Path(p) for p in paths]
    assert [r.key for r in read_responses(paths)] == [(q, k) for q in order for k in range(3)]


def test_hosts_write_at_once_and_one_of_them_merges(tmp_path):
    hosts = [ResponseWriter(tmp_path, host=h) for h in range(3)]
    for h, writer in enumerate(hosts):
        writer.write(ROWS[h::3][:2])
    for h, writer in enumerate(hosts):
        writer.write(ROWS[h::3][2:])
    names = sorted(p.name[:19] for p in (tmp_path / "parts").iterdir())
    assert names == [f"responses-host0000{h}" for h in (0, 0, 1, 1, 2, 2)]
    hosts[0].merge(ORDER, 2)
    check_complete(tmp_path)


def test_fewer_questions_than_shards(tmp_path):
    writer = ResponseWriter(tmp_path)
    writer.write(ROWS[:1])
    paths = writer.merge(ORDER, 5)
    assert [len(p.read_text().splitlines()) for p in paths].count(1) == 1
    assert len(paths) == 5


def test_a_name_is_given_once(tmp_path):
    writer = ResponseWriter(tmp_path)
    writer.write(ROWS[:2])
    for rows in [ROWS[1:2], [ROWS[4]] * 2]:
        with pytest.raises(InputError, match=f"sample {rows[0].sample_index} of question '{rows[0].question_id}'"):
            writer.write(rows)
    with pytest.raises(InputError, match="written twice"):
        ResponseWriter(tmp_path).write(ROWS[:1])
    assert writer.written_keys() == {r.key for r in ROWS[:2]}


def test_two_runs_that_disagree_are_refused_and_kept(tmp_path):
    first, second = ResponseWriter(tmp_path), ResponseWriter(tmp_path, host=1)
    first.written_keys(), second.written_keys()
    first.write([row("q0", 0)])
    second.write([row("q0", 0, "something else")])
    with pytest.raises(InputError, match=r"host00001.* line 1: sample 0 of question 'q0' is also in .*host00000"):
        first.merge(ORDER, 2)
    assert len(list((tmp_path / "parts").iterdir())) == 2


def test_a_row_of_an_unknown_question_is_refused_and_kept(tmp_path):
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
    (to_json(ROWS[0]), "sample 0 of question 'q0' comes twice"),
    ("\udcff", "not UTF-8"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_row_is_named_by_file_and_line(tmp_path, line, message):
    path = jsonl(tmp_path / "mine.jsonl", ROWS[:1])
    with path.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(InputError, match=rf"mine\.jsonl line 2: .*{message}"):
        list(read_responses([path]))


def test_a_broken_part_stops_the_run_and_is_named(tmp_path):
    ResponseWriter(tmp_path).write(ROWS[:3])
    (part,) = (tmp_path / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"{part.name} line 3: .*remove it: its rows will be sampled again"):
        ResponseWriter(tmp_path).written_keys()


def test_names_are_unique_over_all_files(tmp_path):
    paths = [jsonl(tmp_path / "a.jsonl", ROWS[:2]), jsonl(tmp_path / "b.jsonl", ROWS[1:3])]
    with pytest.raises(InputError, match=r"b\.jsonl line 1: .*comes twice"):
        list(read_responses(paths))
    with pytest.raises(InputError, match=r"c\.jsonl: no such file"):
        list(read_responses([tmp_path / "c.jsonl"]))


def test_odd_characters_and_a_missing_last_line_end(tmp_path):
    odd = row("q0", 0, 'line\u2028sep \x85 "quoted"\n\nand a 🙂')
    (tmp_path / "responses.jsonl").write_text(to_json(odd))
    assert list(read_responses([tmp_path / "responses.jsonl"])) == [odd]
    writer = ResponseWriter(tmp_path)
    writer.write([row("q0", 1)])
    assert list(read_responses(writer.merge(ORDER, None))) == [odd, row("q0", 1)]
