"""The build job: filters, selects and encodes responses into a training corpus."""

from collections.abc import Sequence

import jax

from scotd_jax.artefact import Artefact
from scotd_jax.config import Model, ModelSource
from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.corpus.building import build_shards, merge_shards, own_shards, plan_corpus
from scotd_jax.corpus.question_examples import PromptedQuestion
from scotd_jax.corpus.shard_building import CorpusPlan
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError, UnusableCorpusError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import PromptSettings, uses_chat_template
from scotd_jax.jobs.preparation import manifests
from scotd_jax.rationales.contamination import contaminated_ids
from scotd_jax.tasks import recipes


def build(context: RunContext, name: str) -> None:
    """Builds corpora/NAME: TFRecord files with index, descriptions, ledger.json, README.md, and manifest.

    All hosts build shards, each with as many processes as the config sets; the first host merges them. The files do not
    depend on the number of hosts and processes.

    Raises:
      InputError: if no response passes the filters, or most have no rationale; the corpus is then removed. Also if the
        students of the corpus do not share a tokenizer or are evaluated on its questions.
    """
    spec, recipe = context.config.corpora[name], context.recipes[name]
    if spec.rationale_control != "own" and not recipes.uses_fields(recipe, "rationale"):
        raise InputError(
            f"config.corpora.{name}.rationale_control: recipe {spec.recipe!r} uses no rationale that could change"
        )
    artefact = context.artefact("build", name)
    model = _student_model(context, name)
    left_out = _contaminated_questions(context, name)
    if not artefact.begin(manifests.corpus_identity(context, name, model, left_out)):
        context.log("  already complete")
        return
    if left_out:
        context.log(f"  {len(left_out)} questions overlap with evaluation questions and are left out")
    plan = _plan(context, name, artefact, model, left_out)
    try:
        _build(context, artefact, plan, {"name": name} | manifests.encoding_identity(context, name, model))
    except UnusableCorpusError:
        if hosts.is_primary():
            artefact.remove()
        raise


def _plan(
    context: RunContext, name: str, artefact: Artefact, model: Model, contaminated_ids: Sequence[str]
) -> CorpusPlan:
    spec = context.config.corpora[name]
    chat = uses_chat_template(context.config, model)
    prompts = context.prompt_builder(PromptSettings(context.recipes[name], context.formats[name], spec.few_shot, chat))
    questions = [
        PromptedQuestion(question, prompts.format_for(task), prompts.few_shot(task))
        for question, task in context.questions.by_id(context.question_sets[name]).values()
    ]
    return plan_corpus(
        artefact.path,
        spec,
        context.recipes[name],
        questions,
        [context.response_files(source) for source in spec.rationales],
        context.models.tokenizer(model).encoder(context.models.architecture(model).kind, chat),
        contaminated_ids,
        [context.score_file(spec.scored_by, source) for source in spec.rationales] if spec.scored_by else (),
    )


def _build(context: RunContext, artefact: Artefact, plan: CorpusPlan, meta: dict) -> None:
    """Builds this host's shards; the first host then completes the corpus."""
    process = jax.process_index(), jax.process_count()
    with context.progress(len(own_shards(plan, *process)), "  building", "shards") as progress:
        for _ in build_shards(plan, *process):
            progress.advance(1)
    hosts.sync_processes(f"{artefact.path} has its shards")
    if hosts.is_primary():
        _finish(context, artefact, plan, meta)
    hosts.sync_processes(f"{artefact.path} is complete")


def _finish(context: RunContext, artefact: Artefact, plan: CorpusPlan, meta: dict) -> None:
    """Merges the shards, logs their counts, and completes the artefact."""
    built = merge_shards(plan, meta)
    if built.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in built.left_out.items())
        context.log(f"  questions left out: {reasons}")
    if built.summary:
        context.log(f"  {built.summary}")
    for part, counts in built.counts.items():
        line = f"  {part}: {counts['questions']} questions with {counts['responses']} responses"
        if counts["grouping_gain"] > 1.05:
            line += f"; prompts computed once save {counts['grouping_gain']:.1f} x the tokens"
        context.log(line)
    # The manifest of a corpus of one part holds that part's counts.
    counts = next(iter(built.counts.values())) if len(built.counts) == 1 else built.counts
    if built.left_out:
        counts = counts | {"left_out": built.left_out}
    artefact.finish(counts, built.digests)


def _contaminated_questions(context: RunContext, name: str) -> list[str]:
    """Ids of the questions of a corpus that overlap with questions on which its students are evaluated.

    Includes evaluations of other students with rationales that students of this corpus generate.

    Raises:
      InputError: if a student is evaluated on a question set of the corpus.
    """
    config = context.config
    sets, words = context.question_sets[name], config.corpora[name].decontaminate
    if not words:
        return []

    def reads_corpus(student: str, responses: Sequence[str]) -> bool:
        sources = [config.rationales[source] for source in responses if source]
        generators = [source.model.student for source in sources if isinstance(source, ModelSource)]
        return any(config.students[key].corpus == name for key in filter(None, (student, *generators)))

    evaluated: dict[str, str] = {}
    for key, student in config.students.items():
        if reads_corpus(key, student.rationales_from):
            evaluated |= dict.fromkeys(student.dev_sets, key)
    for spec in eval_specs(config).values():
        student = spec.student
        if spec.checkpoint == "initial":
            student = config.students[student].model.student
        if reads_corpus(student, (*spec.rationales_from, spec.responses)):
            evaluated |= dict.fromkeys(spec.eval_sets, student or spec.arm)
    if shared := [set_name for set_name in sets if set_name in evaluated]:
        raise InputError(
            f"config.corpora.{name}: student {evaluated[shared[0]]!r} trains on {shared[0]!r} and is evaluated on it, "
            "so all of its questions would be left out; choose another set, or set decontaminate=0"
        )
    questions = (question for set_name in sets for question in context.questions.questions(set_name))
    evaluation = (question for set_name in evaluated for question in context.questions.questions(set_name))
    return contaminated_ids(questions, evaluation, words)


def _student_model(context: RunContext, name: str) -> Model:
    """The model of one student of the corpus. All its students must share tokenizer, model kind and chat template."""
    found: dict[tuple[str, str, str], tuple[str, Model]] = {}
    for student_name, student in context.config.students.items():
        if student.corpus == name:
            tokenizer, kind = context.models.tokenizer(student.model), context.models.architecture(student.model).kind
            template = tokenizer.chat_template if uses_chat_template(context.config, student.model) else ""
            found[tokenizer.fingerprint(), kind, template] = student_name, student.model
    if len(found) > 1:
        names = " and ".join(student_name for student_name, _ in found.values())
        raise InputError(
            f"config.corpora.{name}: read by students of different tokenizers, kinds or chat templates ({names}); give "
            "each its own corpus"
        )
    ((_, model),) = found.values()
    return model
