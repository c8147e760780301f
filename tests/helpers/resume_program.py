"""A training run that a test can kill: `python -m tests.helpers.resume_program FOLDER SECONDS_PER_STEP`.

It trains on one CPU device and prints the number of each batch that it reads, so that the test can choose when to kill
it.
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


class PrintingBatches:
    """Batches that print their number when they are read and then wait, so that a test can kill the run there."""

    def __init__(self, batch_iterator, seconds: float):
        self._batches, self._seconds, self._num_read = batch_iterator, seconds, 0
        self.get_state = batch_iterator.get_state

    def set_state(self, state):
        self._batches.set_state(state)

    def __next__(self):
        self._num_read += 1
        print(self._num_read, flush=True)
        time.sleep(self._seconds)
        return next(self._batches)


def evaluate(params, step):
    """Returns a number that depends on the parameters, in place of an accuracy."""
    return {"dev_accuracy": float(abs(params["mlp"]["up"]["kernel"]).mean())}


def run(folder, mesh, batch_iterator=None, training=TRAINING):
    """Trains in `folder`, from its last checkpoint if it has one."""
    train(MODEL, None, batch_iterator or batches(4), training, folder, mesh, seed=3, evaluate=evaluate)


if __name__ == "__main__":
    run(sys.argv[1], make_mesh(config.Mesh(), jax.devices()[:1]), PrintingBatches(batches(4), float(sys.argv[2])))
