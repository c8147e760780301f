"""The steps of a run and their order, which follows from the references in the config.

A student that is the teacher or the initial model of others is trained before them.
"""

from collections.abc import Iterator
from typing import NamedTuple

from scotd_jax.config import Config, GeneratedSource, ModelSource
from scotd_jax.config.eval_specs import eval_specs, evaluates_training, probes_rationales
from scotd_jax.errors import InputError, lookup
from scotd_jax.jobs.preparation.config_checks import check_config

JOBS = ("sample", "score", "build", "train", "evaluate", "export", "report")
PLAN = "plan"  # not a step: estimates memory and time of the steps


class Step(NamedTuple):
    """One job for one artefact, e.g. ("train", "n30"). The report belongs to the whole run and has an empty name."""

    job: str
    name: str

    def __str__(self) -> str:
        return f"{self.job} {self.name}".strip()


def chain(config: Config, jobs: tuple[str, ...] = JOBS) -> list[Step]:
    """Returns all steps of `jobs`, each after the steps that it depends on.

    Raises:
      InputError: as `check_config`; if a job does not exist; or if steps depend on each other in a cycle.
    """
    for job in jobs:
        lookup(dict.fromkeys((*JOBS, PLAN)), job, "--jobs")
    check_config(config)
    # Evaluations of trained students are added below, as dependencies of their exports and of the report.
    wanted = [Step("sample", name) for name in config.rationales]
    wanted += [Step("evaluate", name) for name, spec in eval_specs(config).items() if not evaluates_training(spec)]
    wanted += [Step("score", corpus.scored_by) for corpus in config.corpora.values() if corpus.scored_by]
    wanted += [Step("build", name) for name in config.corpora]
    wanted += [Step("train", name) for name in config.students]
    wanted += [Step("export", name) for name, student in config.students.items() if student.export]
    wanted += [Step("report", "")]
    steps: list[Step] = []
    for step in wanted:
        _append_with_dependencies(config, step, steps, ())
    return [step for step in steps if step.job in jobs]


def _append_with_dependencies(config: Config, step: Step, done: list[Step], path: tuple[Step, ...]) -> None:
    if step in path:
        cycle = " -> ".join(str(s) for s in (*path[path.index(step) :], step))
        raise InputError(f"config: these steps depend on each other in a cycle: {cycle}")
    if step not in done:
        for needed in needs(config, step):
            _append_with_dependencies(config, needed, done, (*path, step))
        done.append(step)


def needs(config: Config, step: Step) -> Iterator[Step]:
    """Yields the steps whose artefacts `step` reads."""
    job, name = step
    if job == "sample":
        source = config.rationales[name]
        if isinstance(source, ModelSource) and source.model.student:
            yield Step("train", source.model.student)
        if isinstance(source, GeneratedSource) and source.failed_in:
            yield Step("sample", source.failed_in)
    elif job == "score":
        yield Step("train", name)
        yield from (Step("sample", source) for source in scored_sources(config, name))
    elif job == "build":
        yield from (Step("sample", source) for source in config.corpora[name].rationales)
        if config.corpora[name].scored_by:
            yield Step("score", config.corpora[name].scored_by)
    elif job == "train":
        student = config.students[name]
        if student.model.student:
            yield Step("train", student.model.student)
        yield Step("build", student.corpus)
        if student.dev_sets:
            yield from (Step("sample", source) for source in student.rationales_from)
    elif job == "evaluate":
        spec = eval_specs(config)[name]
        if evaluates_training(spec):
            yield Step("train", spec.student)
        elif spec.student and (initial := config.students[spec.student].model.student):
            yield Step("train", initial)
        sources = [*spec.rationales_from, spec.responses]
        if probes_rationales(spec):
            sources += config.evaluation.oracle_from
            if (simulator := config.evaluation.simulator) and simulator != spec.student:
                yield Step("train", simulator)
        yield from (Step("sample", source) for source in sources if source)
    elif job == "export":
        yield Step("evaluate" if config.students[name].eval_sets else "train", name)
    else:
        yield from (Step("evaluate", name) for name in eval_specs(config))
        yield from (Step("export", name) for name, student in config.students.items() if student.export)


def scored_sources(config: Config, student: str) -> list[str]:
    """Returns the sets of responses that corpora select by their scores under a student."""
    corpora = (corpus for corpus in config.corpora.values() if corpus.scored_by == student)
    return list(dict.fromkeys(source for corpus in corpora for source in corpus.rationales))
