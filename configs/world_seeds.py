"""Three embedded worlds, each with its own facts, teacher and students: the claims with intervals over seeds.

python -m scotd_jax.main --config=configs/world_seeds.py --workdir=runs/world_seeds
"""

from scotd_jax import config as c


def get_config(arg=None):
    a = c.parse_arg(arg, seeds=3, runlocal=False)
    one = c.sibling(__file__, "world")
    arms = {"opt": tuple(one.ARMS), "t5": ("label", "greedy", "n30")}
    config = c.merged([one.world(seed, arms, prefix=f"s{seed}_") for seed in range(a.seeds)])
    return c.config_dict(one.runlocal(config) if a.runlocal else config)
