"""Services that show metrics besides the metrics file: TensorBoard, Weights & Biases, MLflow.

Each is an optional package and one class with `write_scalars`, `flush` and `close`. Accounts, servers and offline modes
are set by the environment variables of the service itself, such as WANDB_MODE=offline and MLFLOW_TRACKING_URI. A
resumed training continues its run.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from etils import epath

from scotd_jax.config import Training
from scotd_jax.errors import InputError


@runtime_checkable
class MetricService(Protocol):
    """Receives the metrics of a training."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the metrics of one step."""
        ...

    def flush(self) -> None:
        """Makes all metrics so far visible."""
        ...

    def close(self) -> None:
        """Ends the run."""
        ...


def metric_services(training: Training, folder: epath.PathLike) -> list[Callable[[], MetricService]]:
    """Returns functions that open the services of a training. They raise InputError if a package is missing.

    Args:
      training: settings of the training.
      folder: folder of the training, whose name is that of the run.
    """
    path = epath.Path(folder)
    services: list[Callable[[], MetricService]] = []
    if training.tensorboard:
        services.append(lambda: tensorboard_writer(path / "tensorboard"))
    if training.wandb:
        services.append(lambda: WandbWriter(training.wandb, path))
    if training.mlflow:
        services.append(lambda: MlflowWriter(training.mlflow, path))
    return services


def tensorboard_writer(folder: epath.PathLike) -> Any:
    """Returns clu's writer of TensorBoard files, which needs TensorFlow."""
    try:
        from clu import metric_writers
    except ImportError as error:
        raise InputError(_missing("tensorboard", error, "False")) from None
    return metric_writers.SummaryWriter(str(folder))


class WandbWriter:
    """A run of Weights & Biases."""

    def __init__(self, project: str, folder: epath.Path):
        """Starts the run, or resumes the one of an earlier process with the same folder."""
        try:
            import wandb  # pyrefly: ignore[missing-import]  # optional
        except ImportError as error:
            raise InputError(_missing("wandb", error, "''")) from None
        run_id = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        local = {} if "://" in str(folder) else {"dir": str(folder)}
        self._run = wandb.init(project=project, name=folder.name, id=run_id, resume="allow", **local)
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the metrics of one step. Steps may return to an earlier one, as after a resumed training."""
        self._run.log({"step": step, **scalars})

    def flush(self) -> None:
        """Does nothing: the service sends metrics by itself."""

    def close(self) -> None:
        """Ends the run and waits until its metrics are sent or stored."""
        self._run.finish()


class MlflowWriter:
    """A run of MLflow, whose id is in FOLDER/mlflow_run.txt."""

    def __init__(self, experiment: str, folder: epath.Path):
        """Starts the run, or resumes the one of an earlier process with the same folder."""
        try:
            import mlflow  # pyrefly: ignore[missing-import]  # optional
        except ImportError as error:
            raise InputError(_missing("mlflow", error, "''")) from None
        self._metric, self._client = mlflow.entities.Metric, mlflow.MlflowClient()
        file = folder / "mlflow_run.txt"
        if file.exists():
            self._run_id = file.read_text().strip()
            self._client.update_run(self._run_id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        self._run_id = self._client.create_run(experiment_id, run_name=folder.name).info.run_id
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._run_id + "\n")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the metrics of one step."""
        now = int(1000 * time.time())
        self._client.log_batch(self._run_id, [self._metric(name, v, now, step) for name, v in scalars.items()])

    def flush(self) -> None:
        """Does nothing: every step is sent at once."""

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._run_id)


def _missing(name: str, error: ImportError, off: str) -> str:
    return f"training.{name} needs more packages ({error}); install the extra {name!r} or set it to {off}"
