"""Writing of responses by the processes of a run."""

import dataclasses

import pytest
from etils import epath

from scotd_jax import config as c
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.generation.writing import write_missing
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Response
from scotd_jax.workdir import Workdir

ROWS = [Response(f"q{i}", 0, "yes", None, "yes", True, "stop", -1.0, 1, "m", "greedy") for i in range(3)]


@pytest.mark.parametrize(
    ("by_group", "writes", "written"), [(False, False, ROWS), (True, True, ROWS), (True, False, [])]
)
def test_one_process_of_a_data_group_writes(tmp_path, by_group, writes, written):
    generated = []

    def missing(done):
        assert not done
        return len(ROWS), (generated.append(row) or [row] for row in ROWS)

    context = make_context(c.Config(), Workdir(str(tmp_path / "run")))
    context = dataclasses.replace(context, data_group=dataclasses.replace(context.data_group, writes=writes))
    folder = epath.Path(tmp_path / "responses")
    paths = write_missing(context, missing, folder, "responses", ["q0", "q1", "q2"], by_group=by_group, label="m")
    assert generated == ROWS, "the other processes of the group generate, too"
    assert list(read_responses(paths)) == written
