"""Host side of the sampler: requests, texts, array shapes, utilization and errors."""

import dataclasses

import jax
import pytest

from scotd_jax.config import Sampling
from scotd_jax.errors import InputError
from scotd_jax.sampling.detokenizer import Detokenizer
from scotd_jax.sampling.passes import plan_passes
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.sampler import Sampler
from tests.helpers.markov import EOS, LINE_END, LetterTokenizer, MarkovConfig, markov_model, markov_table

pytestmark = pytest.mark.usefixtures("fast_compilation")
MODEL = markov_model()
PARAMS = {"table": markov_table(0)}
POLICY = Sampling(n=4, max_new_tokens=10, batch_size=4, bucket=4, chunk=4)
STOPS = ("\n\n", "fa")
LENGTHS = (1, 3, 5, 6, 9, 2, 5, 4, 13, 5, 5)  # prompt tokens; all but the last of a prompt are prefilled


def requests(indices=range(4)):
    return [Request(f"q{i}", [i % 6] * length, tuple(indices)) for i, length in enumerate(LENGTHS)]


def sampler(policy=POLICY, **options):
    return Sampler(MODEL, PARAMS, LetterTokenizer(), policy, **{"seed": 3, "stops": STOPS, **options})


def by_key(batches):
    """Samples by (question id, sample index)."""
    samples = [sample for batch in batches for sample in batch]
    keyed = {(sample.question_id, sample.sample_index): sample for sample in samples}
    assert len(keyed) == len(samples)
    return keyed


@pytest.fixture(scope="module")
def default_samples():
    return by_key(sampler()(requests()))


@pytest.mark.slow
def test_every_requested_sample_is_yielded_once(default_samples):
    assert set(default_samples) == {(f"q{i}", g) for i in range(len(LENGTHS)) for g in range(4)}
    assert len({sample.token_ids for sample in default_samples.values()}) > 30
    assert len({sample.token_ids for key, sample in default_samples.items() if key[0] == "q1"}) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["order", "batch size", "automatic", "bucket", "chunk", "some missing", "fewer slots", "devices"]
)
def test_sample_depends_only_on_question_and_sample_index(default_samples, change):
    policy, changed_requests, options = POLICY, requests(), {}
    if change == "order":
        changed_requests = changed_requests[::-1]
    elif change == "batch size":
        policy = dataclasses.replace(POLICY, batch_size=3)
    elif change == "automatic":
        policy = dataclasses.replace(POLICY, batch_size=0)
    elif change == "bucket":
        policy = dataclasses.replace(POLICY, bucket=16)
    elif change == "chunk":
        policy = dataclasses.replace(POLICY, chunk=3)
    elif change == "some missing":
        changed_requests = [
            dataclasses.replace(r, sample_indices=(3, 1)[: 1 + i % 2]) for i, r in enumerate(changed_requests[2:])
        ]
    elif change == "fewer slots":
        policy = dataclasses.replace(POLICY, n=3)
    else:
        options["mesh"] = jax.make_mesh(
            (4, 2, 1), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3
        )
    again = by_key(sampler(policy, **options)(changed_requests))
    assert set(again) == {(r.question_id, i) for r in changed_requests for i in r.sample_indices}
    assert again == {key: default_samples[key] for key in again}


def test_seed_changes_samples(default_samples):
    again = by_key(sampler(seed=4)(requests()))
    equal = sum(again[key].token_ids == sample.token_ids for key, sample in default_samples.items())
    assert equal < len(default_samples) / 4


def test_text_ends_before_the_stop_string_or_end_token(default_samples):
    endings = set()
    for sample in default_samples.values():
        full_text = LetterTokenizer().decode(sample.token_ids)
        assert sample.num_tokens == len(sample.token_ids)
        assert not any(stop in sample.text for stop in STOPS)
        ending = full_text[len(sample.text) :] or ("eos" if sample.token_ids[-1] == EOS else "length")
        assert full_text.startswith(sample.text)
        assert ending in (*STOPS, "eos", "length")
        assert sample.finish_reason == ("length" if ending == "length" else "stop")
        endings.add(ending)
    assert endings == {*STOPS, "eos", "length"}


def test_stop_string_hidden_by_decoding_is_found_in_the_tokens():
    class Stripping(LetterTokenizer):
        def decode(self, ids):
            return super().decode(ids).strip()

    detokenizer = Detokenizer(Stripping(), stops=("e\n",))
    assert detokenizer.text([0, 4, LINE_END]) == "a"
    assert detokenizer.text([0, 1, EOS]) == "ab"


@pytest.mark.slow
def test_compilations_depend_on_buckets_and_not_on_parameters():
    policy = dataclasses.replace(POLICY, temperature=0.9)
    first_sampler = sampler(policy)
    before = compilations(first_sampler)
    first = by_key(first_sampler(requests()))
    buckets = {max(4, -(-(length - 1) // 4) * 4) for length in LENGTHS}
    assert first_sampler.shapes == {(0, bucket) for bucket in buckets}
    assert compilations(first_sampler) - before == 2 * len(buckets)
    first_sampler.params = {"table": markov_table(9)}
    assert by_key(first_sampler(requests()[::-1])) != first
    second_sampler = sampler(policy)
    assert list(second_sampler([Request("q", [1], range(9))]))
    assert compilations(second_sampler) - before == 2 * len(buckets)


def compilations(sampler):
    programs = sampler._engine.programs
    return sum(program._cache_size() for program in (programs.prefill, programs.decode_steps))


def test_longest_prompts_are_sampled_first():
    lengths = []
    for few_shot_ids, length, pass_requests in plan_passes(MODEL, POLICY, requests()):
        assert not few_shot_ids
        assert all(length - 4 < max(1, len(request.prompt_ids) - 1) <= length for request in pass_requests)
        lengths += [length]
    assert lengths == sorted(set(lengths), reverse=True)


def test_shared_few_shot_examples_have_their_own_pass_and_change_nothing(default_samples):
    shared = [dataclasses.replace(r, shared_length=(0, 0, 2, 3)[i % 4]) for i, r in enumerate(requests())]
    sharing_sampler = sampler()
    assert by_key(sharing_sampler(shared)) == default_samples
    assert {few_shot_length for few_shot_length, _ in sharing_sampler.shapes} == {0, 4}


def test_finished_samples_are_yielded_in_batches(default_samples):
    batches = list(sampler()(requests()))
    num_slots = POLICY.batch_size * POLICY.n
    assert by_key(batches) == default_samples
    assert len(batches) > 1
    assert all(num_slots <= len(batch) < 2 * num_slots for batch in batches[:-1])


def test_slots_stay_busy():
    """24 questions with 9 samples in 8 slots: slots are idle only for the rest of a chunk and at the end."""
    busy_sampler = sampler(dataclasses.replace(POLICY, max_new_tokens=40, chunk=2, batch_size=2), stops=())
    samples = by_key(busy_sampler(Request(f"q{i}", [i % 6], tuple(range(9))) for i in range(24)))
    assert busy_sampler.stats.tokens == sum(sample.num_tokens for sample in samples.values())
    assert busy_sampler.stats.utilization > 0.8
    question_by_question = sum(max(samples[f"q{i}", g].num_tokens for g in range(9)) for i in range(24)) * 9
    assert busy_sampler.stats.slot_steps < 0.7 * question_by_question


@pytest.mark.parametrize("n", [1, 30])
def test_prompt_is_computed_once_for_all_samples(n):
    voting = sampler(dataclasses.replace(POLICY, n=n))
    assert len(by_key(voting(requests(range(n))))) == n * len(LENGTHS)
    assert voting.stats.prompt_tokens == sum(length - 1 for length in LENGTHS)


def test_few_shot_examples_are_computed_once():
    questions = [Request(f"q{i}", [1, 2, 3, i % 6, 5], (0, 1), shared_length=3) for i in range(6)]
    few_shot = sampler()
    assert len(by_key(few_shot(questions))) == 12
    assert few_shot.stats.prompt_tokens == 3 + 6


def test_empty_requests_yield_nothing():
    assert list(sampler()([])) == []
    assert list(sampler()([Request("q", [1], ())])) == []


def test_prompt_that_does_not_fit_the_model_raises():
    with pytest.raises(InputError, match=r"'q7'.*no tokens"):
        list(sampler()([*requests()[:2], Request("q7", [], (0,))]))
    with pytest.raises(InputError, match=r"'q8'.*60 prompt tokens.*64 positions"):
        list(sampler()([Request("q8", [1] * 60, (0,))]))


def test_tokenizer_larger_than_the_vocabulary_raises():
    small = markov_model(MarkovConfig(vocab_size=5))
    with pytest.raises(InputError, match=r"8 ids.*only 5"):
        Sampler(small, PARAMS, LetterTokenizer(), POLICY, seed=0)


@pytest.mark.slow
def test_slots_are_sharded_over_the_mesh():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    sharded = sampler(dataclasses.replace(POLICY, batch_size=3), mesh=mesh)
    _, state, _ = sharded._engine.programs.init_state(PARAMS, 4, 2, 4)
    assert state.last_token.shape == (4, 4)
    assert len({str(shard.index) for shard in state.last_token.addressable_shards}) == 4
    before = compilations(sharded)
    assert by_key(sharded(requests()))
    assert compilations(sharded) - before == 2 * len(sharded.shapes)
