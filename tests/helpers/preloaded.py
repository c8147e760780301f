"""The imports of the fork server (fork_server.py): everything that a chain imports while it runs.

If one of these modules is missing here, every fork imports it, which is slower but still correct. scotd_jax.main is
left to the forks, because its flags can be defined only once.
"""

# ruff: noqa: F401
import contextlib

with contextlib.suppress(ImportError):  # an export is compared with PyTorch if it is installed
    import torch
    from transformers.models.opt import modeling_opt
    from transformers.models.t5 import modeling_t5

import clu.parameter_overview
import grain
import jax
import jax.experimental.multihost_utils
import matplotlib.pyplot
import ml_collections.config_flags
import orbax.checkpoint
import transformers

from scotd_jax import jobs
from scotd_jax.models import decoder, opt, t5
from tests.helpers import collect_less

for job in ("sample", "build", "train", "evaluate", "export", "report"):
    jobs.load(job)

collect_less.after_imports()
