"""Compares the number of responses per question in an update, with equal numbers of rationales and updates.

    scotd-jax --config=world_groups --workdir=runs/world_groups

Every update trains on 30 rationales: one for each of 30 questions (as in the papers), five for each of 6, or thirty for
one. Larger groups need less computation, but an update has fewer questions. There are three worlds, each with its own
facts, teacher and students; everything except the grouping is as in configs/world.py.
"""

import dataclasses

from scotd_jax import config as c
from scotd_jax.errors import InputError

RATIONALES = 30  # rationales per update
SIZES = {str(size): size for size in range(1, RATIONALES + 1) if RATIONALES % size == 0}


def get_config(arg=None):
    settings = c.parse_arg(arg, seeds=3, groups="1+5+30", runlocal=False)
    world = c.sibling(__file__, "world")
    names = settings.groups.split("+")
    if unknown := [name for name in names if name not in SIZES]:
        raise InputError(
            f"groups={settings.groups}: {unknown[0]!r} does not divide the {RATIONALES} rationales of an update; "
            f"there are {', '.join(SIZES)}"
        )
    groups = [SIZES[name] for name in names]
    config = c.merged(
        [regrouped(world.world(seed, {"opt": ("n30",)}, f"s{seed}_"), groups) for seed in range(settings.seeds)]
    )
    return c.config_dict(world.runlocal(config, arms=()) if settings.runlocal else config)


def regrouped(config: c.Config, groups: list[int]) -> c.Config:
    """Returns the world with one student per group size in place of the student with thirty rationales."""
    students = dict(config.students)
    (name,) = [name for name in students if name.endswith("n30_opt")]
    plain = students.pop(name)
    for size in groups:
        training = dataclasses.replace(plain.training, batch_size=RATIONALES // size, group_size=size)
        students[f"{name}_g{size}"] = dataclasses.replace(
            plain, training=training, arm=f"{size} of a question", export=False
        )
    evals = {key: dataclasses.replace(spec, student=f"{name}_g{groups[0]}") for key, spec in config.evals.items()}
    return dataclasses.replace(config, students=students, evals=evals)
