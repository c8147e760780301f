"""Stored responses are read by question without reading whole files."""

import json

import pytest

from scotd_jax.errors import InputError
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.rationales.stored_responses import StoredResponses, concatenate_sets
from scotd_jax.records import Response, to_json

ORDER = ["b", 'a "quoted" \\ é', "c", "none"]


def rows(counts):
    """The responses of {question id: number of responses}."""
    return [
        Response(id_, k, f"text {k}\u2028é", None, None, None, "stop", -1.0, 2, "m", "s")
        for id_, count in counts.items()
        for k in range(count)
    ]


@pytest.fixture
def paths(tmp_path):
    writer = ResponseWriter(tmp_path)
    writer.write(rows({ORDER[1]: 3, "c": 1, "b": 2}))
    return writer.merge(ORDER, 2)


def test_rows_of_every_question_are_read_in_any_order(paths):
    stored = StoredResponses(paths, {id_: i for i, id_ in enumerate(ORDER)})
    assert stored.counts.tolist() == [2, 3, 1, 0]
    for position in (2, 0, 3, 1, 1):
        assert stored.read(position) == rows({ORDER[position]: int(stored.counts[position])})
    stored.close()
    assert not stored.unmatched


def test_rows_of_other_questions_are_counted(paths):
    stored = StoredResponses(paths, {"c": 0})
    assert stored.read(0) == rows({"c": 1})
    assert stored.unmatched == {("b", "m"): 2, (ORDER[1], "m"): 3}
    stored.close()


def test_lines_in_another_json_form_are_read(tmp_path):
    path = tmp_path / "responses.jsonl"
    expected = rows({"b": 2, "c": 1})
    other = [json.dumps(dict(reversed(json.loads(to_json(row)).items()))) for row in expected]
    path.write_text("\n".join(other))  # keys in another order, no line end after the last line
    from etils import epath

    stored = StoredResponses([epath.Path(path)], {"b": 0, "c": 1})
    assert stored.read(0) + stored.read(1) == expected
    stored.close()


def test_damage_is_reported_with_file_and_line(paths, tmp_path):
    positions = {id_: i for i, id_ in enumerate(ORDER)}
    lines = paths[0].read_text().split("\n")
    paths[0].write_text("\n".join([lines[0], lines[1][:-5], *lines[2:]]))
    stored = StoredResponses(paths, positions)
    with pytest.raises(InputError, match=rf"{paths[0].name} line 2: not a JSON object"):
        stored.read(0)
    stored.close()
    paths[0].write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(InputError, match=rf"{paths[0].name} line 3: question 'b' comes again after others"):
        StoredResponses(paths, positions)
    paths[0].unlink()
    with pytest.raises(InputError, match="no such file"):
        StoredResponses(paths, positions)


def test_concatenated_sets_have_consecutive_sample_indices():
    one, two = rows({"b": 3}), rows({"b": 2})
    assert concatenate_sets([one]) == one
    assert [row.sample_index for row in concatenate_sets([one[::2], two, two])] == [0, 2, 3, 4, 5, 6]
    assert concatenate_sets([[], two]) == two
    assert [row.text for row in concatenate_sets([one[:1], two])] == [one[0].text, two[0].text, two[1].text]
