"""Three embedded worlds, each with its own facts, teacher and students: the claims with intervals over seeds.

python -m scotd_jax.main --config=configs/world_seeds.py --workdir=runs/world_seeds
"""

import dataclasses
import importlib.util
from pathlib import Path

from scotd_jax import config as c


def get_config(arg=None):
    a = c.parse_arg(arg, seeds=3, runlocal=False)
    one = _sibling("world")
    arms = {"opt": tuple(one.ARMS), "t5": tuple(one.ARMS)}
    worlds = [one.world(seed, arms, prefix=f"s{seed}_") for seed in range(a.seeds)]
    merged = {
        part: {name: value for world in worlds for name, value in getattr(world, part).items()}
        for part in ("tasks", "rationales", "corpora", "students")
    }
    config = dataclasses.replace(worlds[0], **merged)
    return c.config_dict(one.runlocal(config) if a.runlocal else config)


def _sibling(name):
    """Another config file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
