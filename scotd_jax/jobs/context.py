"""Objects that the jobs of a run share, created once from the config and the work directory."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from etils import epath
from jax.sharding import Mesh

from scotd_jax import config as c
from scotd_jax.artefact import Artefact
from scotd_jax.distributed.compile_times import report_compile_times
from scotd_jax.distributed.data_group import DataGroup, make_data_group
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.jobs.generation.prompting import (
    PromptBuilder,
    PromptSettings,
    corpus_format,
    corpus_question_sets,
    corpus_recipe,
)
from scotd_jax.jobs.model_loading import ModelLoader
from scotd_jax.progress import Progress, log
from scotd_jax.rationales.store import is_response_file
from scotd_jax.tasks.prompt_formats import PromptFormat
from scotd_jax.tasks.question_loader import QuestionLoader, QuestionsById
from scotd_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class RunContext:
    """The config of a run and everything that jobs resolve from it. Created by `make_context`.

    Attributes:
      config: the config.
      workdir: the work directory.
      mesh: mesh of the devices of all processes, for training.
      data_group: the processes that generate together with this one.
      questions: loads tasks and question sets.
      models: loads models, tokenizers and parameters.
      recipes: recipe by corpus.
      formats: prompt format by corpus; None if prompts have the format of their task.
      question_sets: names of question sets by corpus.
      skip_bad: whether broken rows of imported files are skipped (and counted in the ledger).
    """

    config: c.Config
    workdir: Workdir
    mesh: Mesh
    data_group: DataGroup
    questions: QuestionLoader
    models: ModelLoader
    recipes: Mapping[str, c.Recipe]
    formats: Mapping[str, PromptFormat | None]
    question_sets: Mapping[str, tuple[str, ...]]
    skip_bad: bool = False

    @property
    def sampling_mesh(self) -> Mesh:
        """The mesh of the data group, for its share of the questions."""
        return self.data_group.mesh

    def artefact(self, job: str, name: str) -> Artefact:
        """Returns the artefact of one step."""
        return self.workdir.artefact(job, name)

    def checked(self, job: str, name: str) -> Artefact:
        """Returns the complete artefact of one step, for reading its files; see `Workdir.checked`."""
        return self.workdir.checked(job, name)

    def response_files(self, rationales: str) -> list[epath.Path]:
        """Returns the files of a finished set of responses, in order, for reading them; see `Workdir.checked`."""
        artefact = self.checked("sample", rationales)
        return [artefact.path / name for name in artefact.files if is_response_file(name)]

    def score_file(self, student: str, rationales: str) -> epath.Path:
        """Returns the finished file of the scores of a set of responses under a student; see `Workdir.checked`."""
        return self.checked("score", student).path / f"{rationales}.scores.jsonl"

    def reported_questions(self, set_name: str) -> QuestionsById:
        """Returns the questions of a reported set, at most `evaluation.limit` of them."""
        return self.questions.by_id((set_name,), self.config.evaluation.limit)

    def prompt_builder(self, settings: PromptSettings) -> PromptBuilder:
        """Returns a PromptBuilder that uses the few-shot examples of the run's tasks."""
        return PromptBuilder(settings, self.questions.few_shot_prompt)

    def log(self, message: str) -> None:
        """Prints a line on the first process."""
        log(message, process_index=jax.process_index())

    def progress(self, total: int, label: str, unit: str, done: int = 0, scope: str = "") -> Progress:
        """Returns a progress line that the first process prints."""
        return Progress(total, label, unit, scope=scope, done=done, process_index=jax.process_index())


def make_context(
    config: c.Config, workdir: Workdir, skip_bad: bool = False, devices: Sequence[jax.Device] | None = None
) -> RunContext:
    """Returns the context of a run.

    Args:
      config: the config.
      workdir: the work directory.
      skip_bad: whether broken rows of imported files are skipped.
      devices: devices to use; None for all.

    Raises:
      InputError: if a mesh does not fit the devices, or a corpus names an unknown recipe or format.
    """
    report_compile_times()
    mesh = make_mesh(config.mesh, devices)
    data_group = make_data_group(config.sampling_mesh, config.mesh, mesh)
    questions = QuestionLoader(config.tasks, config.seed)
    return RunContext(
        config=config,
        workdir=workdir,
        mesh=mesh,
        data_group=data_group,
        questions=questions,
        models=ModelLoader(config, workdir, questions, mesh, data_group),
        recipes={name: corpus_recipe(config, name) for name in config.corpora},
        formats={name: corpus_format(config, name) for name in config.corpora},
        question_sets={name: corpus_question_sets(config, name) for name in config.corpora},
        skip_bad=skip_bad,
    )
