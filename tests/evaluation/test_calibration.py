"""Calibration errors and reliability tables, on cases computed by hand and by simulation."""

import numpy as np
import pytest

from scotd_jax.evaluation.calibration import calibration
from scotd_jax.evaluation.intervals import wilson_interval


def test_calibration_error_of_a_case_computed_by_hand():
    result = calibration([0.9, 0.9, 0.8, 0.3], [1, 0, 1, 0], bins=5)
    # (0.8, 1.0]: confidence 0.9, accuracy 1/2; (0.6, 0.8]: 0.8 and 1; (0.2, 0.4]: 0.3 and 0.
    assert [(b["low"], b["n"], b["accuracy"]) for b in result["bins"]] == [
        (pytest.approx(0.2), 1, 0.0),
        (pytest.approx(0.6), 1, 1.0),
        (pytest.approx(0.8), 2, 0.5),
    ]
    assert result["bins"][2]["confidence"] == pytest.approx(0.9)
    assert result["bins"][2]["interval"] == list(wilson_interval(1, 2)[1:])
    assert result["ece"] == pytest.approx((2 * 0.4 + 0.2 + 0.3) / 4)
    assert (result["n"], result["accuracy"], result["mean_confidence"]) == (4, 0.5, pytest.approx(0.725))


def test_bins_of_equal_mass_keep_equal_confidences_together_in_any_order():
    confidences = [1.0] * 6 + [0.5, 0.4, 0.3, 0.2]
    right = [1, 1, 1, 0, 0, 0, 1, 0, 0, 0]
    result = calibration(confidences, right, bins=5)
    assert [(b["low"], b["high"], b["n"]) for b in result["equal_mass_bins"]] == [
        (0.2, 0.3, 2),
        (0.4, 0.5, 2),
        (1.0, 1.0, 6),
    ]
    assert result["ece_equal_mass"] == pytest.approx((2 * 0.25 + 2 * 0.05 + 6 * 0.5) / 10)
    backwards = calibration(confidences[::-1], right[::-1], bins=5)
    assert [b["n"] for b in backwards["equal_mass_bins"]] == [2, 2, 6]
    assert backwards["ece_equal_mass"] == pytest.approx(result["ece_equal_mass"])


def test_bins_of_equal_mass_are_symmetric():
    result = calibration([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0] * 7, bins=5)
    assert [b["n"] for b in result["equal_mass_bins"]] == [1, 2, 1, 2, 1]


def test_calibrated_answers_have_a_small_error_and_overconfident_ones_a_large_one():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 1, 20_000)
    right = (rng.uniform(size=p.size) < p).astype(float)
    calibrated, overconfident = calibration(p, right), calibration(np.sqrt(p), right)
    assert calibrated["ece"] < 0.02
    assert calibrated["ece_equal_mass"] < 0.02
    expected = float(np.mean(np.sqrt(p) - p))
    assert overconfident["ece"] == pytest.approx(expected, abs=0.02)
    assert overconfident["mean_confidence"] - overconfident["accuracy"] == pytest.approx(expected, abs=0.02)


def test_confidences_on_the_border_of_a_bin_belong_to_the_lower_one():
    result = calibration([k / 30 for k in (0, 3, 6, 21, 30)], [0, 0, 0, 1, 1])
    assert [round(b["high"], 1) for b in result["bins"]] == [0.1, 0.2, 0.7, 1.0]
    assert result["bins"][0]["n"] == 2


@pytest.mark.parametrize(("confidences", "right"), [([], []), ([0.5], [1, 0]), ([1.2], [1]), ([float("nan")], [1])])
def test_values_that_are_no_confidences_are_refused(confidences, right):
    with pytest.raises(ValueError, match="expected confidences between 0 and 1"):
        calibration(confidences, right)
