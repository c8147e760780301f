"""Marginalization over rationales: p(answer | question) = mean over rationales r_i of p(answer | question, r_i).

With r_i sampled from the rationale model, this is the unbiased estimate of the sum over all rationales of
p(r | question) p(answer | question, r). It treats the two stages of Sci-CoT (arXiv 2308.04679) as one model. The
marginalization is our interpretation; the paper's abstract does not describe how the answer is decided.
"""

import numpy as np


def log_marginal(log_p_NC: np.ndarray) -> np.ndarray:
    """Returns float64[C], the log of the probability of each answer averaged over N rationales (float64[N, C])."""
    log_p_NC = np.asarray(log_p_NC, np.float64)
    max_C = log_p_NC.max(axis=0)
    return max_C + np.log(np.exp(log_p_NC - max_C).mean(axis=0))
