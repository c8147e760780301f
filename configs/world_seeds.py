"""Three embedded worlds, each with its own facts, teacher and students: results with intervals over seeds.

scotd-jax --config=world_seeds --workdir=runs/world_seeds
"""

from scotd_jax import config as c


def get_config(arg=None):
    settings = c.parse_arg(arg, seeds=3, runlocal=False)
    world = c.sibling(__file__, "world")
    arms = {"opt": tuple(world.ARMS), "t5": ("label", "greedy", "n30")}
    config = c.merged([world.world(seed, arms, prefix=f"s{seed}_") for seed in range(settings.seeds)])
    return c.config_dict(world.runlocal(config) if settings.runlocal else config)
