"""Workloads of a plan: training and generation, with everything that determines the shapes of their programs."""

import dataclasses
from typing import Any, Literal

from scotd_jax import config as c


@dataclasses.dataclass(frozen=True)
class TrainingWorkload:
    """Training of students that share one program.

    Attributes:
      names: the students.
      config_paths: paths of their settings in the config.
      model_config: architecture.
      precision: compute dtype.
      settings: training settings of the first student.
      parts: parts of the recipe with their loss weights.
      prompt_tokens: padded length P of the prompts [B, P].
      group_size: responses G per question of a batch.
      response_tokens: padded length R of the responses [B, G, R].
      updates: total updates of all students.
    """

    names: tuple[str, ...]
    config_paths: tuple[str, ...]
    model_config: Any
    precision: str
    settings: c.Training
    parts: tuple[tuple[str, float], ...]
    prompt_tokens: int
    group_size: int
    response_tokens: int
    updates: int

    job = "train"

    @property
    def title(self) -> str:
        """The job and the names of the students, for the plan."""
        return f"train {_shorten(self.names)}"

    def canonical(self) -> "TrainingWorkload":
        """Returns the workload reduced to the fields that affect its program. Equal results compile once."""
        settings = canonical_settings(self.settings)
        return dataclasses.replace(self, names=(), config_paths=(), settings=settings, updates=0)

    def group_key(self) -> Any:
        """Returns a key; workloads with equal keys are merged."""
        return self.canonical()

    def merge(self, other: Any) -> "TrainingWorkload":
        """Returns the union of two workloads with equal `group_key`."""
        return dataclasses.replace(self, **_merged_names(self, other), updates=self.updates + other.updates)


@dataclasses.dataclass(frozen=True)
class GenerationWorkload:
    """Generation of responses, or scoring of candidate answers, by models that share one program.

    Attributes:
      names: rationale sets, students or evals.
      config_paths: paths of their sampling policies in the config.
      job: "sample", "evaluate", or "train" for dev evaluations.
      model_config: architecture.
      precision: compute dtype.
      policy: sampling policy.
      prompt_tokens: padded length of the prompts after the few-shot examples.
      exemplar_tokens: padded length of the few-shot examples, which are encoded once per run.
      questions: number of prompts; a question has several if each contains another provided rationale.
      samples: number of responses.
      candidate_answers: if positive, that many answers per prompt are scored instead of generating responses.
      rationale_tokens: padded length of the generated rationale before these answers; 0 if it is part of the prompt.
      loads_inference_dtype: whether weights are read from files in the inference dtype, not cast from float32.
      paused_training: settings of a training whose state stays on the devices during generation.
      sampling_mesh: devices that share one copy of the model.
    """

    names: tuple[str, ...]
    config_paths: tuple[str, ...]
    job: Literal["sample", "train", "evaluate"]
    model_config: Any
    precision: str
    policy: c.Sampling
    prompt_tokens: int
    exemplar_tokens: int
    questions: int
    samples: int
    candidate_answers: int = 0
    rationale_tokens: int = 0
    loads_inference_dtype: bool = False
    paused_training: c.Training | None = None
    sampling_mesh: c.SamplingMesh = c.SamplingMesh()

    @property
    def title(self) -> str:
        """The job and the names of what is generated, for the plan."""
        job = "dev" if self.job == "train" else self.job
        return f"{job} {_shorten(self.names)}"

    def canonical(self) -> "GenerationWorkload":
        """Returns the workload reduced to the fields that affect its programs. Equal results compile once."""
        return dataclasses.replace(
            self,
            names=(),
            config_paths=(),
            job="sample",
            questions=0,
            samples=0,
            loads_inference_dtype=False,
            paused_training=None,
        )

    def group_key(self) -> Any:
        """Returns a key; workloads with equal keys are merged."""
        return self.canonical(), self.job, self.loads_inference_dtype, self.paused_training

    def merge(self, other: Any) -> "GenerationWorkload":
        """Returns the union of two workloads with equal `group_key`."""
        questions, samples = self.questions + other.questions, self.samples + other.samples
        return dataclasses.replace(self, **_merged_names(self, other), questions=questions, samples=samples)


Workload = TrainingWorkload | GenerationWorkload


def canonical_settings(settings: c.Training) -> c.Training:
    """Returns training settings with fixed values for the fields that do not affect shapes or memory."""
    optimizer = dataclasses.replace(settings.optimizer, warmup_steps=0, learning_rate=1.0)
    return dataclasses.replace(
        settings,
        steps=10**9,
        eval_every=0,
        save_every=0,
        log_every=1,
        max_to_keep=0,
        tensorboard=False,
        wandb="",
        mlflow="",
        curriculum=False,
        optimizer=optimizer,
    )


def _merged_names(first: Workload, second: Workload) -> dict[str, tuple[str, ...]]:
    return {
        field: tuple(dict.fromkeys((*getattr(first, field), *getattr(second, field))))
        for field in ("names", "config_paths")
    }


def _shorten(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
