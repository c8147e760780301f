"""A training run that a test can kill: `python -m tests.helpers.resume_program FOLDER SECONDS_PER_STEP`.

It prints each step as its batch is taken, so that the killer can choose a moment, and trains on one CPU device.
"""

import sys
import time

import jax

from scotd_jax import config
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.training.loop import train
from tests.helpers.training_fixtures import bag_model, batches

MODEL = bag_model()
STEPS = 24
TRAINING = config.Training(
    steps=STEPS,
    batch_size=4,
    eval_every=8,
    save_every=3,
    log_every=5,
    optimizer=config.Optimizer(name="muon", learning_rate=0.02, warmup_steps=2),
)


class Told:
    """Batches that say when they are taken, slowly enough to be interrupted in between."""

    def __init__(self, loader, seconds: float):
        self._loader, self._seconds, self._taken = loader, seconds, 0
        self.get_state = loader.get_state

    def set_state(self, state):
        self._loader.set_state(state)

    def __next__(self):
        self._taken += 1
        print(self._taken, flush=True)
        time.sleep(self._seconds)
        return next(self._loader)


def evaluate(params, step):
    return {"dev_accuracy": float(abs(params["mlp"]["up"]["kernel"]).mean())}


def run(folder, mesh, loader=None, training=TRAINING):
    train(MODEL, None, loader or batches(4), training, folder, mesh, seed=3, evaluate=evaluate)


if __name__ == "__main__":
    run(sys.argv[1], make_mesh(config.Mesh(), jax.devices()[:1]), Told(batches(4), float(sys.argv[2])))
