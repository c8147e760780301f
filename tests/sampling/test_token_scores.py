"""Log-probabilities and ranks of tokens, compared with one unpadded response at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax.layout import split_prompt
from scotd_jax.models.api import Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.sampling.likelihood import Candidates
from scotd_jax.sampling.token_scores import score_tokens
from tests.helpers.tolerances import FLOAT32

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
SHAPES = {
    "opt-tiny": {"init_std": 0.2, "vocab_size": 48, "num_hidden_layers": 1},
    "t5-tiny": {"initializer_factor": 1.5, "vocab_size": 48, "num_layers": 1},
}
MAX_RANK = 20
CANDIDATES = [
    Candidates("a", [5, 9, 11], [[20, 21, 1], [21, 22, 23, 24, 25, 26, 27, 28, 29, 1]]),
    Candidates("b", [3, 4, 6, 8, 10, 12, 14, 15, 16, 17], [[30, 31, 1]]),
    Candidates("c", [7, 8, 9], [[32, 33, 1], [34, 40, 1]]),
]


def one_by_one(model):
    """Returns a function (params, prompt, response) -> log-probabilities and ranks of a response without padding."""

    @jax.jit
    def logits_of(params, prompt_BP, inputs_BCR):
        context = model.prefill(params, prompt_BP, jnp.ones_like(prompt_BP, dtype=bool))
        hidden, _ = model.extend(params, context, inputs_BCR)
        return hidden[0, 0] @ model.unembedding(params).T

    def score(params, prompt, response):
        before, start = split_prompt(prompt, model.start_token)
        inputs = np.array([[[start, *response[:-1]]]], np.int32)
        logits_RV = np.asarray(logits_of(params, np.array([before], np.int32), inputs))
        log_p = [row[token] - np.log(np.exp(row).sum()) for row, token in zip(logits_RV, response, strict=True)]
        ranks = [1 + int((row > row[token]).sum()) for row, token in zip(logits_RV, response, strict=True)]
        return log_p, [min(rank, MAX_RANK) for rank in ranks]

    return score


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SHAPES))
def test_token_scores_equal_those_of_single_responses(kind):
    model = build(config_for(kind, SHAPES[kind]), Precision("float32"))
    params = model.init(jax.random.key(3))
    batches = score_tokens(model, params, CANDIDATES, max_rank=MAX_RANK, batch_size=2, bucket=8)
    found = {key: scores for batch in batches for key, scores in batch}
    reference, clipped = one_by_one(model), 0
    for item in CANDIDATES:
        assert len(found[item.key]) == len(item.responses)
        for scores, response in zip(found[item.key], item.responses, strict=True):
            log_p, ranks = reference(params, item.prompt_ids, response)
            np.testing.assert_allclose(scores.log_p, log_p, rtol=FLOAT32, atol=FLOAT32)
            assert scores.rank.tolist() == ranks
            clipped += ranks.count(MAX_RANK)
    assert 0 < clipped < 22, "some ranks are clipped, others not"
