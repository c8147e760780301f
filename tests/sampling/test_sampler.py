"""The host side: names in, texts out, in few shapes, whatever else is asked."""

import dataclasses

import jax
import pytest

from scotd_jax.config import Sampling
from scotd_jax.errors import InputError
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.sampler import Sampler
from tests.helpers.markov import EOS, LINE_END, LetterTokenizer, MarkovConfig, markov_model, markov_table

MODEL = markov_model()
PARAMS = {"table": markov_table(0)}
POLICY = Sampling(n=4, max_new_tokens=10, batch_size=4, bucket=4, chunk=4)
STOPS = ("\n\n", "fa")
LENGTHS = (1, 3, 5, 6, 9, 2, 5, 4, 13, 5, 5)  # prompt tokens; prefixes are one shorter


def requests(indices=range(4)):
    return [Request(f"q{i}", [i % 6] * length, tuple(indices)) for i, length in enumerate(LENGTHS)]


def sampler(policy=POLICY, **options):
    return Sampler(MODEL, PARAMS, LetterTokenizer(), policy, **{"seed": 3, "stops": STOPS, **options})


def by_name(batches):
    found = [sample for batch in batches for sample in batch]
    named = {(sample.question_id, sample.sample_index): sample for sample in found}
    assert len(named) == len(found)
    return named


@pytest.fixture(scope="module")
def usual():
    return by_name(sampler()(requests()))


def test_every_sample_that_was_asked_for_comes_once(usual):
    assert set(usual) == {(f"q{i}", g) for i in range(len(LENGTHS)) for g in range(4)}
    assert len({sample.token_ids for sample in usual.values()}) > 30
    assert len({sample.token_ids for name, sample in usual.items() if name[0] == "q1"}) > 1


@pytest.mark.parametrize("change", ["order", "batch size", "bucket", "chunk", "some missing", "fewer rows", "devices"])
def test_a_sample_depends_on_its_name_alone(usual, change):
    policy, asked, options = POLICY, requests(), {}
    if change == "order":
        asked = asked[::-1]
    elif change == "batch size":
        policy = dataclasses.replace(POLICY, batch_size=3)
    elif change == "bucket":
        policy = dataclasses.replace(POLICY, bucket=16)
    elif change == "chunk":
        policy = dataclasses.replace(POLICY, chunk=3)
    elif change == "some missing":
        asked = [dataclasses.replace(r, sample_indices=(3, 1)[: 1 + i % 2]) for i, r in enumerate(asked[2:])]
    elif change == "fewer rows":
        policy = dataclasses.replace(POLICY, n=3)
    else:
        options["mesh"] = jax.make_mesh(
            (4, 2, 1), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3
        )
    again = by_name(sampler(policy, **options)(asked))
    assert set(again) == {(r.question_id, i) for r in asked for i in r.sample_indices}
    assert again == {name: usual[name] for name in again}


def test_the_seed_counts(usual):
    again = by_name(sampler(seed=4)(requests()))
    assert sum(again[name].token_ids == usual[name].token_ids for name in usual) < len(usual) / 4


def test_texts_end_before_the_stop_string_or_end_token(usual):
    endings = set()
    for sample in usual.values():
        whole = LetterTokenizer().decode(sample.token_ids)
        assert sample.num_tokens == len(sample.token_ids)
        assert not any(stop in sample.text for stop in STOPS)
        ending = whole[len(sample.text) :] or ("eos" if sample.token_ids[-1] == EOS else "length")
        assert whole.startswith(sample.text)
        assert ending in (*STOPS, "eos", "length")
        assert sample.finish_reason == ("length" if ending == "length" else "stop")
        endings.add(ending)
    assert endings == {*STOPS, "eos", "length"}


def test_a_stop_string_that_decoding_hides_is_cut_by_tokens():
    class Stripping(LetterTokenizer):
        def decode(self, ids):
            return super().decode(ids).strip()

    speaker = Sampler(MODEL, PARAMS, Stripping(), POLICY, seed=0, stops=("e\n",))
    assert speaker._text([0, 4, LINE_END]) == "a"
    assert speaker._text([0, 1, EOS]) == "ab"


def test_compilations_are_bounded_by_buckets_and_none_is_for_new_parameters():
    policy = dataclasses.replace(POLICY, temperature=0.9)
    speaker = sampler(policy)
    before = compilations(speaker)
    first = by_name(speaker(requests()))
    buckets = {max(4, -(-(length - 1) // 4) * 4) for length in LENGTHS}
    assert speaker.shapes == {(0, bucket) for bucket in buckets}
    assert compilations(speaker) - before == 2 * len(buckets)
    speaker.params = {"table": markov_table(9)}
    assert by_name(speaker(requests()[::-1])) != first
    again = sampler(policy)
    assert list(again([Request("q", [1], range(9))]))
    assert compilations(again) - before == 2 * len(buckets)


def compilations(speaker):
    return sum(program._cache_size() for program in (speaker._programs.read, speaker._programs.decode))


def test_longest_prompts_come_first():
    asked, order = requests(), []
    for shared, width, some in sampler()._passes(asked):
        assert not shared
        assert all(width - 4 < max(1, len(request.prompt_ids) - 1) <= width for request in some)
        order += [width]
    assert order == sorted(set(order), reverse=True)


def test_exemplars_are_passes_of_their_own_and_change_nothing(usual):
    asked = [dataclasses.replace(r, shared=(0, 0, 2, 3)[i % 4]) for i, r in enumerate(requests())]
    speaker = sampler()
    assert by_name(speaker(asked)) == usual
    assert {shared for shared, _ in speaker.shapes} == {0, 4}


def test_finished_samples_are_handed_on_in_portions(usual):
    portions = list(sampler()(requests()))
    rows = POLICY.batch_size * POLICY.n
    assert by_name(portions) == usual
    assert len(portions) > 1
    assert all(rows <= len(portion) < 2 * rows for portion in portions[:-1])


def test_rows_are_busy():
    """24 questions of 9 samples on 8 rows: what is idle is the rest of a chunk, and the end."""
    speaker = sampler(dataclasses.replace(POLICY, max_new_tokens=40, chunk=2, batch_size=2), stops=())
    asked = [Request(f"q{i}", [i % 6], tuple(range(9))) for i in range(24)]
    samples = by_name(speaker(asked))
    assert speaker.work.tokens == sum(sample.num_tokens for sample in samples.values())
    assert speaker.work.occupancy > 0.8
    in_step = sum(max(samples[f"q{i}", g].num_tokens for g in range(9)) for i in range(24)) * 9
    assert speaker.work.row_steps < 0.7 * in_step  # what batches of whole questions would need


def test_nothing_asked_gives_nothing():
    assert list(sampler()([])) == []
    assert list(sampler()([Request("q", [1], ())])) == []


def test_prompts_that_a_model_cannot_take_are_named():
    with pytest.raises(InputError, match=r"'q7'.*no tokens"):
        list(sampler()([*requests()[:2], Request("q7", [], (0,))]))
    with pytest.raises(InputError, match=r"'q8'.*60 prompt tokens.*64 positions"):
        list(sampler()([Request("q8", [1] * 60, (0,))]))


def test_a_tokenizer_of_another_model_is_refused():
    small = markov_model(MarkovConfig(vocab_size=5))
    with pytest.raises(InputError, match=r"8 ids.*only 5"):
        Sampler(small, PARAMS, LetterTokenizer(), POLICY, seed=0)


def test_rows_are_spread_over_the_mesh():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    speaker = sampler(dataclasses.replace(POLICY, batch_size=3), mesh=mesh)
    _, rows, _ = speaker._programs.empty(PARAMS, 4, 2, 4)
    assert rows.last.shape == (4, 4)
    assert len({str(shard.index) for shard in rows.last.addressable_shards}) == 4
    before = compilations(speaker)
    assert by_name(speaker(requests()))
    assert compilations(speaker) - before == 2 * len(speaker.shapes)
