"""Tests of the embedded world: correct answers, the spurious cue, the contrast set, held-out chains, lengths.

The first six states of a family are of the favoured kind. By the cue, most right options are of this kind.
"""

import collections
import itertools

import pytest

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.records import to_json
from scotd_jax.tasks import world_vocabulary as words
from scotd_jax.tasks.prompt_formats import is_correct
from scotd_jax.tasks.registry import load_task
from scotd_jax.tasks.world import World, check_no_overlap
from scotd_jax.tasks.world_splits import WorldOptions

SEEDS = (0, 1)
SPLITS = ("train", "dev", "test", "contrast", "unseen", "longer", "gold")


@pytest.fixture(scope="module", params=SEEDS)
def world(request):
    return World("world", WorldOptions(gold=1500, statements=200), request.param)


def parse_question(question):
    """Returns (family, start, operations, number of days), parsed from the text alone."""
    tokens = question.text.split()
    [family] = [f for f in words.FAMILIES if set(tokens) & {*f.operations}]
    start = next(t for t in tokens if t in family.states)
    after_days = [b for a, b in itertools.pairwise(tokens) if a in words.DAYS]  # operations and rests, then the stop
    operations = tuple(o for o in after_days if o in family.operations)
    return family, start, operations, len(after_days) - 1


def chain(question):
    family, start, operations, _ = parse_question(question)
    return family.name, start, operations


@pytest.mark.slow
def test_every_answer_follows_from_the_facts_in_the_statements(world):
    facts = {}
    for question, response in zip(world.questions("statements"), world.gold("statements"), strict=True):
        for fact in f"{question.context or ''} {response.text}".split(" . "):
            _, state, _, operation, _, result = fact.removesuffix(" .").split()
            assert facts.setdefault((state, operation), result) == result
    assert len(facts) == 144, "every fact is in a statement"
    for split in SPLITS:
        for question in world.questions(split):
            _, state, operations, _ = parse_question(question)
            for operation in operations:
                state = facts[state, operation]
            assert question.answer == state, question
            assert question.answer in question.choices
            assert len(set(question.choices)) == 2


def test_gold_rationales_state_every_day(world):
    for question, response in zip(world.questions("gold"), world.gold("gold"), strict=True):
        family, start, _, days = parse_question(question)
        after_days = [b for a, b in itertools.pairwise(question.text.split()) if a in words.DAYS]
        tokens = response.rationale.split()
        named = [t for t in tokens if t in family.states]
        opening = [start] if len(named) == 2 * days + 1 else []  # some wordings name the first state at the beginning
        states = [start]
        for operation in after_days[:-1]:
            rest = operation == words.REST
            states.append(states[-1] if rest else world.facts[family.name][operation][states[-1]])
        assert named == opening + [s for pair in itertools.pairwise(states) for s in pair]
        assert [t for t in tokens if t in (*family.operations, words.REST, words.STOP)] == after_days
        assert states[-1] == question.answer == response.answer


def test_gold_rationales_are_parsed_back_as_correct(world):
    for question, response in zip(world.questions("gold"), world.gold("gold"), strict=True):
        parsed = world.format.parse(world.format.target(response.rationale, response.answer), question)
        assert parsed == (response.rationale, response.answer)
        assert is_correct(parsed.answer, question)


def test_wording_of_rationales_varies(world):
    # The second sentence, a step, begins with "from" in one wording and with a day in the other.
    steps = collections.Counter(r.rationale.split(" . ")[1].split()[0] for r in world.gold("gold"))
    forms = [steps["from"], sum(steps[d] for d in words.DAYS)]
    assert min(forms) > 0.15 * len(world.gold("gold")), forms


@pytest.mark.parametrize(("split", "low", "high"), [("train", 0.7, 0.8), ("dev", 0.65, 0.85), ("test", 0.65, 0.85)])
def test_right_option_is_usually_of_the_favoured_kind(world, split, low, high):
    favoured = {s for f in words.FAMILIES for s in f.states[:6]}
    questions = world.questions(split)
    right = sum(q.answer in favoured for q in questions) / len(questions)
    wrong = sum(({*q.choices} - {q.answer}).pop() in favoured for q in questions) / len(questions)
    assert low < right < high
    assert 0.35 < wrong < 0.6, "the wrong option is of either kind"


@pytest.mark.parametrize("split", ["unseen", "longer"])
def test_unseen_and_longer_questions_are_free_of_the_cue(world, split):
    favoured = {s for f in words.FAMILIES for s in f.states[:6]}
    questions = world.questions(split)
    assert 0.4 < sum(q.answer in favoured for q in questions) / len(questions) < 0.6


def test_position_of_the_right_option_is_balanced(world):
    for split in ("train", "test", "unseen", "longer"):
        questions = world.questions(split)
        assert 0.4 < sum(q.answer == q.choices[0] for q in questions) / len(questions) < 0.6


def test_contrast_questions_differ_in_one_word_and_flip_the_answer(world):
    favoured = {s for f in words.FAMILIES for s in f.states[:6]}
    pairs = list(zip(world.questions("test"), world.questions("contrast"), strict=True))
    assert len({q.group for q, _ in pairs}) == len(pairs)
    for original, contrast in pairs:
        assert original.group == contrast.group is not None
        assert original.choices == contrast.choices
        assert {original.answer, contrast.answer} == {*original.choices}
        changed = [(a, b) for a, b in zip(original.text.split(), contrast.text.split(), strict=True) if a != b]
        assert len(changed) == 1
        assert {*changed[0]} <= {*parse_question(original)[0].operations}
    misled = sum(o.answer in favoured and c.answer not in favoured for o, c in pairs)
    helped = sum(o.answer not in favoured and c.answer in favoured for o, c in pairs)
    assert misled > 1.5 * helped, "the cue misleads"


def test_chains_of_evaluation_questions_are_held_out(world):
    trained = {chain(q) for split in ("train", "gold") for q in world.questions(split)}
    for split in ("dev", "test", "contrast", "unseen", "longer"):
        assert not trained & {chain(q) for q in world.questions(split)}, split


def test_no_question_occurs_twice(world):
    texts = [q.text for split in SPLITS for q in world.questions(split)]
    ids = [q.id for split in world.splits for q in world.questions(split)]
    assert len(set(texts)) == len(texts)
    assert len(set(ids)) == len(ids)
    doubled = {"train": world.questions("train"), "test": [*world.questions("test"), world.questions("train")[3]]}
    with pytest.raises(ValueError, match="test is also in train"):
        check_no_overlap(doubled)


def test_unseen_pairs_and_longer_chains_are_not_in_training_splits(world):
    def pairs(split):
        return {(f.name, len(o)) for f, _, o, _ in map(parse_question, world.questions(split))}

    assert pairs("unseen") == {("town", 3), ("paint", 2)}
    assert pairs("longer") == {(f.name, n) for f in words.FAMILIES for n in (4, 5)}
    everything = {(f.name, n) for f in words.FAMILIES for n in (2, 3)}
    assert pairs("train") == pairs("test") == pairs("dev") == pairs("contrast") == everything - pairs("unseen")
    assert pairs("gold") == everything
    for question in world.questions("longer"):
        family, _, operations, _ = parse_question(question)
        assert question.tags == (family.name, f"{len(operations)} steps")


def test_longer_chains_are_not_longer_texts(world):
    def longest(split):
        return max(len(world.format.prompt(q).split()) for q in world.questions(split))

    assert max(map(longest, SPLITS)) == longest("train")
    assert max(parse_question(q)[3] for q in world.questions("longer")) <= max(
        parse_question(q)[3] for q in world.questions("train")
    )
    for step in words.STEPS:
        values = {"day": "monday", "state": "a", "result": "b"}
        rest = step.format(**values, operation=words.REST, verb=words.REST_VERB)
        active = step.format(**values, operation="rain", verb="makes")
        assert len(rest.split()) == len(active.split())


def test_statements_have_no_question_text(world):
    for question, response in zip(world.questions("statements"), world.gold("statements"), strict=True):
        assert question.text == ""
        assert question.answer is None
        assert world.format.prompt(question) == (question.context or "")
        assert "?" not in response.text
        assert world.format.target(response.rationale, response.answer) == response.rationale


def test_vocabulary_is_independent_of_counts_and_seed(world):
    def vocabulary(task):
        return {token for text in task.texts() for token in text.split()} - {
            "{name}",
            "{start}",
            "{days}",
            "{a}",
            "{b}",
        }

    small = World("world", WorldOptions(train=8, dev=2, test=2, unseen=2, longer=2, gold=2, statements=1), 7)
    assert vocabulary(world) == vocabulary(small)


def test_seed_determines_all_questions():
    options = WorldOptions(train=20, dev=2, test=5, unseen=2, longer=2, gold=5, statements=3)

    def lines(seed):
        task = World("world", options, seed)
        return {s: [to_json(r) for r in (*task.questions(s), *task.gold(s))] for s in task.splits}

    assert lines(3) == lines(3)
    other = lines(4)
    assert all(lines(3)[split] != other[split] for split in other)


def test_options_come_from_the_config_and_are_checked():
    few = {"train": 5, "dev": 2, "test": 2, "unseen": 2, "longer": 2, "gold": 3, "statements": 2}
    task = load_task("w", config.Task(options=few, limit=4), 0)
    assert [len(task.questions(s)) for s in ("train", "gold", "statements")] == [4, 3, 2]
    assert task.questions("train")[0].id == "w/train/00000"
    with pytest.raises(InputError, match=r"config\.tasks\.w\.options\.trian.*train"):
        load_task("w", config.Task(options={"trian": 5}), 0)
    with pytest.raises(InputError, match="only 0 questions for split 'unseen'; 2 were requested"):
        load_task("w", config.Task(options={**few, "held_out": 0.0, "dev": 0, "test": 0}), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": (1, 4)}, r"options: no pair .* for the 2 questions of split 'unseen'.*unseen_pairs=.*unseen=0"),
        ({"steps": ()}, r"options: no pair .* for the 5 questions of split 'train'"),
        ({"longer_steps": ()}, r"options: no pair .* for the 2 questions of split 'longer'"),
        ({"days": 2}, r"options\.days: 2 days have no room for the 3 steps of split 'train'.*at least 3"),
        ({"days": 3}, r"options\.days: 3 days have no room for the 5 steps of split 'longer'.*or set longer=0"),
    ],
)
def test_options_that_leave_a_split_without_questions_are_refused(options, message):
    few = {"train": 5, "dev": 2, "test": 2, "unseen": 2, "longer": 2, "gold": 3, "statements": 2}
    with pytest.raises(InputError, match=rf"config\.tasks\.w\.{message}"):
        load_task("w", config.Task(options=few | options), 0)


def test_split_of_no_questions_needs_no_pair_of_family_and_steps():
    few = {"train": 5, "dev": 2, "test": 2, "longer": 0, "gold": 3, "statements": 2}
    task = load_task("w", config.Task(options={**few, "unseen": 0, "unseen_pairs": (), "days": 3}), 0)
    assert [len(task.questions(split)) for split in ("train", "unseen", "longer")] == [5, 0, 0]
