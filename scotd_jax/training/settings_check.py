"""Early check of training settings, which runs before the first job."""

from collections.abc import Callable

from scotd_jax.config import Training
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.errors import InputError
from scotd_jax.models.api import Params
from scotd_jax.models.kernels import fused_attention
from scotd_jax.training.loop import check_batch_size
from scotd_jax.training.optimizer import make_optimizer
from scotd_jax.training.trainable import describe_trainable


def check_training(
    student: str, training: Training, mesh: AnyMesh, platform: str, abstract_params: Callable[[], Params]
) -> None:
    """Raises an error for training settings with which the training job could not start.

    Args:
      student: name of the student, for the message.
      training: its training settings.
      mesh: the mesh on which it trains.
      platform: "cpu", "gpu" or "tpu".
      abstract_params: returns shapes and dtypes of the parameters; called only if some are frozen.

    Raises:
      SizesError: if the batch cannot be split over the mesh.
      InputError: on optimizer settings that contradict each other, attention that the platform does not support, and
        patterns of `freeze` and `lora` that match no parameter.
    """
    try:
        check_batch_size(training, mesh)
        make_optimizer(training.optimizer, training.steps)
        fused_attention.check_supported(training.attention, platform)
        if training.freeze or training.lora.rank:
            describe_trainable(abstract_params(), training.freeze, training.lora)
    except InputError as error:
        raise type(error)(f"config.students.{student}: {error}") from None
