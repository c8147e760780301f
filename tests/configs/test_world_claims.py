"""Arms, data and claims of configs/world_claims.py."""

import dataclasses
import itertools

import pytest

from scotd_jax import config as c
from scotd_jax.jobs.graph import chain
from scotd_jax.tasks.question_loader import QuestionLoader
from tests.helpers.cli import ROOT

world_claims = c.sibling(str(ROOT / "configs" / "x"), "world_claims")
CONFIG = c.from_mapping(c.Config, world_claims.get_config("seeds=2"))


def test_every_claim_is_about_arms_of_the_run():
    chain(CONFIG)  # refuses unknown arms and sets
    assert set(CONFIG.evaluation.claims) == set(world_claims.CLAIMS)
    compared = {pair for claim in CONFIG.evaluation.claims.values() for pair in claim.comparisons}
    assert set(CONFIG.evaluation.comparisons) == compared


def test_every_seed_samples_once_for_all_arms():
    sampled = [name for name, source in CONFIG.rationales.items() if name.startswith("s1_")]
    assert sampled == ["s1_gold", "s1_sampled", "s1_greedy", "s1_stage1"]
    numbers = [CONFIG.corpora[f"s1_scotd_n_{n}"].n for n in (1, 2, 5, 10, 20, 30)]
    assert numbers == [1, 2, 5, 10, 20, 30]
    assert {CONFIG.corpora[f"s1_scotd_n_{n}"].rationales for n in (1, 30)} == {("s1_sampled",)}


def test_parts_of_the_questions_contain_the_smaller_ones():
    few = dict.fromkeys(("dev", "test", "unseen", "longer", "gold", "statements"), 8)
    task = CONFIG.tasks["s0_world"]
    task = dataclasses.replace(task, options=task.options | few)
    loader = QuestionLoader({"s0_world": task}, CONFIG.seed)
    names = ["label_only_10_of_the_questions", "label_only_20_of_the_questions", "label_only_40_of_the_questions"]
    sets = [set(loader.by_id(CONFIG.corpora[f"s0_{name}"].questions)) for name in (*names, "label_only")]
    assert [len(ids) / 350 for ids in sets] == pytest.approx([0.1, 0.2, 0.4, 1], abs=0.05)
    for smaller, larger in itertools.pairwise(sets):
        assert smaller < larger


def test_three_sizes_differ_in_nothing_else():
    students = [CONFIG.students[f"s0_scotd_n_30_{size}"] for size in ("small", "medium", "large")]
    widths = [student.model.overrides["hidden_size"] for student in students]
    assert widths == [32, 64, 96]
    assert len({(student.corpus, student.training, student.arm, student.eval_sets) for student in students}) == 1


@pytest.mark.parametrize("name", ["world_claims:seeds=1", "world_scicot:seeds=1,kind=opt"])
def test_second_stage_has_room_for_a_prompt_a_rationale_and_an_answer(name):
    name, arg = name.split(":")
    config = c.from_mapping(c.Config, c.sibling(str(ROOT / "configs" / "x"), name).get_config(arg))
    first = config.students["s0_stage1"].model.overrides["max_position_embeddings"]
    second = config.students["s0_stage2"].model.overrides["max_position_embeddings"]
    assert first == 128
    generated = config.rationales["s0_stage1" if name == "world_claims" else "s0_greedy1"].sampling.max_new_tokens
    # The first stage's prompt and rationale fit into its positions; the second stage's answer comes after them.
    assert second >= first + config.evaluation.sampling.max_new_tokens >= 128 + generated
