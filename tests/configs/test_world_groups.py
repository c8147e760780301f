"""Group sizes of configs/world_groups.py."""

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from tests.helpers.cli import ROOT

world_groups = c.sibling(str(ROOT / "configs" / "x"), "world_groups")


def test_every_update_trains_on_thirty_rationales():
    students = world_groups.get_config("seeds=1,groups=1+6+15").students
    sizes = [students[f"s0_n30_opt_g{size}"].training for size in (1, 6, 15)]
    assert [(t.batch_size, t.group_size) for t in sizes] == [(30, 1), (5, 6), (2, 15)]


@pytest.mark.parametrize("size", ["4", "60", "0", "x"])
def test_group_size_that_does_not_divide_an_update_is_refused(size):
    with pytest.raises(InputError, match=rf"groups=1\+{size}: '{size}' does not divide the 30 rationales"):
        world_groups.get_config(f"groups=1+{size}")
