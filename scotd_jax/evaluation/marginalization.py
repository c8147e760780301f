"""Answers summed over rationales: p(answer | question) = mean over rationales r_i of p(answer | question, r_i).

With r_i drawn from the model of the rationales this is the unbiased estimate of the sum over all rationales of
p(r | question) p(answer | question, r), which two-stage reasoning (Sci-CoT, arXiv 2308.04679) is when it is written
as one model. That the answers are summed in this way is our reading; the paper's abstract does not say how it decides.
"""

import numpy as np


def log_marginal(log_p_NC: np.ndarray) -> np.ndarray:
    """Log of the mean over N rationales of the probabilities of C answers: float64[N, C] -> float64[C]."""
    log_p_NC = np.asarray(log_p_NC, np.float64)
    top_C = log_p_NC.max(axis=0)
    return top_C + np.log(np.exp(log_p_NC - top_C).mean(axis=0))
