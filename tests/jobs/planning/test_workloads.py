"""Workloads of a config: prompt lengths, few-shot examples, numbers of responses, and scoring of answers."""

import dataclasses

import pytest

from scotd_jax import config as c
from tests.helpers.planned import (
    LABELS,
    SHORT_SAMPLING,
    generation_by_title,
    make_analyzer,
    small_config,
    workloads_of,
)


def test_evaluations_use_their_own_number_of_few_shot_examples():
    config = small_config(evals={"five": c.EvalSpec("n4", ("w.test",), few_shot=5)})
    corpus = dataclasses.replace(LABELS, few_shot=2, max_prompt_tokens=128 + 2 * 128)  # the limit includes examples
    config = dataclasses.replace(config, corpora={**config.corpora, "n4": corpus})
    workloads = generation_by_title(config)
    as_trained, five = workloads["evaluate n4"], workloads["evaluate five"]
    assert workloads["dev n4"].exemplar_tokens == as_trained.exemplar_tokens == 2 * 128
    assert five.exemplar_tokens == 5 * 128
    assert as_trained.prompt_tokens == five.prompt_tokens == 128
    programs = make_analyzer("cpu-4").analyze(five, c.Mesh(), compile=False).programs
    assert [program.name for program in programs] == ["load", "few_shot", "prefill", "decode"]
    # An encoder encodes examples and question together.
    student = dataclasses.replace(config.students["n4"], model=c.Model("t5-tiny", tokenizer="task:w"))
    workloads = generation_by_title(dataclasses.replace(config, students={"n4": student}, rationales={}))
    tokens = [(workload.exemplar_tokens, workload.prompt_tokens) for workload in workloads.values()]
    assert tokens == [(0, 384), (0, 384), (0, 768)]


def test_responses_are_counted_per_question_and_provided_rationale():
    evaluation = c.Evaluation(sampling=dataclasses.replace(SHORT_SAMPLING, n=3))
    provided = c.EvalSpec("n4", ("w.test",), rationales_from=("teacher",), n=4)
    workloads = generation_by_title(small_config(evaluation=evaluation, evals={"provided": provided}))
    counts = {title: (workload.questions, workload.samples) for title, workload in workloads.items()}
    assert counts["dev n4"] == (256, 256), "one response per dev question, twice in 600 updates"
    assert counts["evaluate n4 and 1 more"] == (1000 + 4000, 3000 + 4000), "one response per provided rationale"


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "prompt_tokens"), [("opt-tiny", 32 + 128), ("t5-tiny", 192)])
def test_marginal_evaluation_scores_answers_in_one_program(architecture, prompt_tokens):
    marginal = c.EvalSpec("n4", ("w.test",), rationales_from=("teacher",), n=4, few_shot=1, combine="marginal")
    config = small_config(c.Model(architecture, tokenizer="task:w"), "cpu-2", evals={"marginal": marginal})
    workload = generation_by_title(config)["evaluate marginal"]
    assert (workload.candidate_answers, workload.questions) == (5, 4000)
    assert (workload.exemplar_tokens, workload.prompt_tokens) == (0, prompt_tokens)
    analyzer = make_analyzer("cpu-2")
    estimated, compiled = (
        analyzer.analyze(workload, c.Mesh(fsdp=2), compile=compile).programs for compile in (False, True)
    )
    assert [program.name for program in compiled] == ["load", "score"]
    assert 0.5 < estimated[-1].bytes["temporaries"] / compiled[-1].bytes["temporaries"] < 2
    # XLA counts less: it removes the unused part of OPT's last layer over the prompt, and counts one answer position.
    assert 0.9 < estimated[-1].flops / compiled[-1].xla_flops < 1.6


@pytest.mark.parametrize(("architecture", "lengths"), [("opt-tiny", (64, 0)), ("t5-tiny", (64, 32))])
def test_choices_are_scored_after_rationales_of_the_largest_length(architecture, lengths):
    evals = {"before": c.EvalSpec("n4", ("w.test",), checkpoint="initial", read="choices")}
    evaluation = c.Evaluation(read="both", sampling=dataclasses.replace(SHORT_SAMPLING, temperature=0.0))
    config = small_config(c.Model(architecture, tokenizer="task:w"), evaluation=evaluation, evals=evals)
    evaluations = [workload for workload in workloads_of(config) if workload.job == "evaluate"]
    generated, scored = (w for w in evaluations if w.names == ("n4", "before"))
    assert (generated.candidate_answers, generated.questions) == (0, 2000)
    assert (scored.candidate_answers, scored.questions) == (5, 2000)
    # A decoder-only model reads prompt and rationale as one sequence, the decoder of T5 repeats the rationale.
    assert (scored.prompt_tokens, scored.rationale_tokens) == lengths
    (_, program) = make_analyzer("cpu-4").analyze(scored, c.Mesh(), compile=False).programs
    assert program.name == "score"
    labels = dataclasses.replace(config, corpora={**config.corpora, "n4": dataclasses.replace(LABELS, n=1)})
    assert [w.candidate_answers for w in workloads_of(labels) if "before" in w.names] == [5], "nothing is generated"


def test_choices_are_scored_after_changed_rationales_and_by_the_simulator():
    evaluation = c.Evaluation(
        read="choices", interventions=("truncated", "empty"), oracle_from=("teacher",), simulator="reader",
        sampling=dataclasses.replace(SHORT_SAMPLING, temperature=0.0),
    )  # fmt: skip
    config = small_config(evaluation=evaluation)
    reader = c.Student(c.Model("opt-125m", tokenizer="task:w"), "reader")
    infer = dataclasses.replace(config.corpora["n4"], recipe="infer")
    config = dataclasses.replace(
        config, students={**config.students, "reader": reader}, corpora={**config.corpora, "reader": infer}
    )
    scored = [w for w in workloads_of(config) if w.job == "evaluate" and w.candidate_answers]
    assert [w.questions for w in scored] == [1000 + 3 * 1000, 3 * 1000]
    plain = dataclasses.replace(
        config, evaluation=dataclasses.replace(evaluation, interventions=(), oracle_from=(), simulator="")
    )
    assert [w.questions for w in workloads_of(plain) if w.job == "evaluate" and w.candidate_answers] == [1000]
