"""Lists the workloads of a config: sampling from teachers, training of students, and evaluations."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from scotd_jax import config as c
from scotd_jax.config.eval_specs import eval_specs, probes_rationales
from scotd_jax.errors import InputError
from scotd_jax.jobs.generation.prompting import corpus_recipe, evaluation_prompt_settings, prompt_settings
from scotd_jax.jobs.planning.assumptions import Assumptions
from scotd_jax.jobs.planning.workloads import GenerationWorkload, TrainingWorkload, Workload, canonical_settings
from scotd_jax.layout import round_up
from scotd_jax.tasks.recipes import generates_rationale, needs_rationale

UNLIMITED = 10**9  # responses per question where the config sets no limit, e.g. for imported files


def chain_workloads(config: c.Config, assumptions: Assumptions) -> list[Workload]:
    """Returns the workloads of all jobs. Workloads that have equal programs and the same role in the chain are merged.

    Raises:
      InputError: if the config has no workload, or the architecture of a model is unknown.
    """
    merged: dict[Any, Workload] = {}
    for workload in (
        *_teachers(config, assumptions),
        *_students(config, assumptions),
        *_evaluations(config, assumptions),
    ):
        if isinstance(workload, GenerationWorkload):
            workload = dataclasses.replace(workload, sampling_mesh=config.sampling_mesh)
        key = workload.group_key()
        merged[key] = merged[key].merge(workload) if key in merged else workload
    if not merged:
        raise InputError("config: nothing to plan: the config trains no student and samples from no local model")
    return list(merged.values())


def _teachers(config: c.Config, assumptions: Assumptions) -> Iterator[GenerationWorkload]:
    """The generation of every set of responses from a local model."""
    for name, spec in config.rationales.items():
        if not isinstance(spec, c.ModelSource):
            continue
        model_config = assumptions.model_config(spec.model)
        limits = [corpus.max_prompt_tokens for corpus in config.corpora.values() if name in corpus.rationales]
        questions = assumptions.count_questions(spec.questions)
        yield _generation(
            config.plan,
            config.plan.prompt_tokens or max(limits, default=c.Corpus.max_prompt_tokens),
            prompt_settings(config, spec.model, few_shot=spec.few_shot or None).few_shot,
            names=(name,),
            config_paths=(f"rationales.{name}.sampling",),
            job="sample",
            model_config=model_config,
            precision="bfloat16",
            policy=spec.sampling,
            questions=questions,
            samples=questions * spec.sampling.n,
            loads_inference_dtype=bool(spec.model.path),
        )


def _students(config: c.Config, assumptions: Assumptions) -> Iterator[Workload]:
    """The training of every student and its dev evaluations."""
    for name, student in config.students.items():
        model_config = assumptions.model_config(student.model)
        corpus, training = config.corpora[student.corpus], student.training
        yield TrainingWorkload(
            names=(name,),
            config_paths=(f"students.{name}.training",),
            model_config=model_config,
            precision=student.precision,
            settings=training,
            parts=tuple((part, spec.weight) for part, spec in corpus_recipe(config, student.corpus).parts.items()),
            prompt_tokens=round_up(corpus.max_prompt_tokens - _moved_to_response(model_config), 8),
            group_size=max(1, min(training.group_size, _responses_per_question(config, corpus))),
            response_tokens=round_up(corpus.max_response_tokens, 8),
            updates=training.steps,
        )
        if student.dev_sets:
            questions = assumptions.count_questions(student.dev_sets)
            questions = min(questions, config.evaluation.dev_questions or questions)
            evaluations = -(-training.steps // training.eval_every) if training.eval_every else 1
            yield _evaluation(
                config,
                name,
                c.EvalSpec(name),
                model_config,
                questions * evaluations,
                job="train",
                paused_training=canonical_settings(training),
            )


def _responses_per_question(config: c.Config, corpus: c.Corpus) -> int:
    """Upper bound on the responses per question in a corpus."""
    if corpus.n:
        return corpus.n
    sources = [config.rationales[name] for name in corpus.rationales]
    local = [source for source in sources if isinstance(source, c.ModelSource)]
    if len(local) == len(sources):
        return sum(source.sampling.n for source in local)
    return UNLIMITED


def _evaluations(config: c.Config, assumptions: Assumptions) -> Iterator[GenerationWorkload]:
    """The generation and the scoring of candidate answers of every evaluation."""
    settings = config.evaluation
    for name, spec in eval_specs(config).items():
        if spec.responses:  # the sample job has generated them
            if spec.read != "text":
                yield _scored_responses(config, name, spec, assumptions)
            continue
        model_config = assumptions.model_config(config.students[spec.student].model)
        questions = assumptions.count_questions(spec.eval_sets, settings.limit)
        recipe = evaluation_prompt_settings(config, spec).recipe
        has_rationale = spec.combine == "vote" and generates_rationale(recipe)  # generated, not provided
        scored: list[tuple[int, str]] = []  # prompts whose answers are scored, and the policy of their rationales
        if spec.combine == "marginal":
            scored.append((questions * spec.n, "sampling"))
        elif spec.rationales_from:  # one response per provided rationale
            scored.append((questions * spec.n, "sampling"))
            if spec.read != "choices" or has_rationale:
                yield _evaluation(config, name, spec, model_config, questions * spec.n)
        else:
            scored.append((questions * (settings.sampling.n if has_rationale else 1), "sampling"))
            if spec.read != "choices" or has_rationale:
                yield _evaluation(config, name, spec, model_config, questions, settings.sampling.n)
                if n := settings.self_consistency.n:
                    yield _evaluation(config, name, spec, model_config, questions, n, policy="self_consistency")
                    scored += [(questions * n, "self_consistency")] if has_rationale else []
        is_probed = probes_rationales(spec) and (has_rationale or needs_rationale(recipe))
        if is_probed and (changes := len(settings.interventions) + bool(settings.oracle_from)):
            scored.append((questions * changes, "sampling"))
        if spec.read != "text" or spec.combine == "marginal":
            answers = assumptions.max_answers(spec.eval_sets)
            for prompts, policy in scored:
                tokens = getattr(settings, policy).max_new_tokens if has_rationale else 0
                yield _evaluation(
                    config, name, spec, model_config, prompts, candidate_answers=answers, rationale_tokens=tokens
                )
            if is_probed and settings.simulator and settings.simulator != spec.student:
                # It predicts from question and rationale, from the question, and from the rationale.
                simulator = assumptions.model_config(config.students[settings.simulator].model)
                simulated = dataclasses.replace(spec, student=settings.simulator)
                prompts = {"candidate_answers": answers, "rationale_tokens": 0}
                yield _evaluation(config, name, simulated, simulator, 3 * questions, **prompts)


def _scored_responses(config: c.Config, name: str, spec: c.EvalSpec, assumptions: Assumptions) -> GenerationWorkload:
    """The comparison of the choices after the stored responses of a local model."""
    source, policy = config.rationales[spec.responses], config.evaluation.sampling
    assert isinstance(source, c.ModelSource), "checked by check_config"
    prompts = prompt_settings(config, source.model, recipe=source.recipe, few_shot=source.few_shot or None)
    questions = assumptions.count_questions(spec.eval_sets, config.evaluation.limit) * spec.n
    return _generation(
        config.plan,
        config.plan.prompt_tokens or c.Corpus.max_prompt_tokens,
        prompts.few_shot,
        names=(name,),
        config_paths=("evaluation.sampling",),
        job="evaluate",
        model_config=assumptions.model_config(source.model),
        precision="bfloat16",
        policy=policy,
        questions=questions,
        samples=questions,
        candidate_answers=assumptions.max_answers(spec.eval_sets),
        rationale_tokens=source.sampling.max_new_tokens if generates_rationale(prompts.recipe) else 0,
        loads_inference_dtype=bool(source.model.path),
    )


def _evaluation(
    config: c.Config,
    name: str,
    spec: c.EvalSpec,
    model_config: Any,
    questions: int,
    samples: int = 1,
    policy: str = "sampling",
    **fields: Any,
) -> GenerationWorkload:
    """The evaluation of a student, after training or before it, with `samples` responses per question."""
    student, plan = config.students[spec.student], config.plan
    corpus = config.corpora[student.corpus]
    # The limit of a corpus includes the few-shot examples with which the student is trained.
    longest = plan.prompt_tokens or max(1, corpus.max_prompt_tokens - corpus.few_shot * plan.exemplar_tokens)
    return _generation(
        plan,
        longest,
        evaluation_prompt_settings(config, spec).few_shot,
        names=(name,),
        config_paths=(f"evaluation.{policy}",),
        model_config=model_config,
        precision=student.precision,
        policy=getattr(config.evaluation, policy),
        questions=questions,
        samples=questions * samples,
        loads_inference_dtype=spec.checkpoint == "initial" and bool(student.model.path),
        **{"job": "evaluate", **fields},
    )


def _generation(plan: c.Plan, longest: int, few_shot: int, **fields: Any) -> GenerationWorkload:
    """A workload with prompts of up to `longest` tokens after `few_shot` examples."""
    model_config, bucket = fields["model_config"], fields["policy"].bucket
    exemplar_tokens = few_shot * plan.exemplar_tokens
    if model_config.start_token is not None:  # an encoder encodes examples and question together
        longest, exemplar_tokens = longest + exemplar_tokens, 0
    prompt_tokens = round_up(longest - _moved_to_response(model_config), bucket)
    exemplar_tokens = round_up(exemplar_tokens, bucket) if exemplar_tokens else 0
    if fields.get("candidate_answers"):  # scoring encodes examples and question together
        rationale_tokens = round_up(fields["rationale_tokens"], bucket) if fields["rationale_tokens"] else 0
        if model_config.start_token is None:  # a decoder-only model reads the rationale as part of the prompt
            exemplar_tokens, rationale_tokens = exemplar_tokens + rationale_tokens, 0
        prompt_tokens, exemplar_tokens = round_up(prompt_tokens + exemplar_tokens, bucket), 0
        fields["rationale_tokens"] = rationale_tokens
    return GenerationWorkload(prompt_tokens=prompt_tokens, exemplar_tokens=exemplar_tokens, **fields)


def _moved_to_response(model_config: Any) -> int:
    """Number of prompt tokens that move to the response: decoder-only models feed the last one as its first input."""
    return 0 if model_config.start_token is not None else 1
