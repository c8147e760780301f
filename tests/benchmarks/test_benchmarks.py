"""The benchmarks run on tiny shapes and say what they promise."""

import importlib.util
import json
import subprocess
import sys

import pytest

from benchmarks.roofline import Peaks, sampling_work
from benchmarks.sampling_sides import Case
from scotd_jax.models import registry
from tests.helpers.cli import ROOT, environment


def last_line(module: str, *arguments: str) -> dict:
    """What the benchmark says last, which is to be one JSON object."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment(hurry=True), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed: it is what is compared with")
def test_sampling_compares_both_sides():
    facts = last_line("sampling", "--shrink", "--pairs=2", "--cases=opt125m_fewshot700")
    assert facts["benchmark"] == "sampling"
    assert set(facts) == {"benchmark", "cases", "peaks", "versions", "pairs", "device"}
    (case,) = facts["cases"].values()
    assert len(case["pairs"]) == 2
    ratios = sorted(pair["ours"] / pair["theirs"] for pair in case["pairs"])
    assert case["ratio"] == pytest.approx(sum(ratios) / 2, rel=0.05)  # what is printed is rounded
    for side in ("ours", "theirs"):
        assert case[f"{side}_tokens_per_second"] > 0
        memory = case["memory"][side]
        assert 0 < memory["imports_mib"] <= memory["loaded_mib"] <= memory["peak_mib"]
    peaks = [case["memory"][side]["peak_mib"] for side in ("ours", "theirs")]
    assert case["peak_memory_ratio"] == pytest.approx(peaks[0] / peaks[1], rel=0.02)
    assert case["theirs_setting"]["dtype"] == "float32"
    assert case["theirs_prefix_reuse_tokens_per_second"] > 0
    assert case["roofline"]["share"] > 0


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed: it is what is compared with")
def test_training_compares_both_sides_of_one_loss():
    facts = last_line("training", "--shrink", "--pairs=1", "--cases=opt125m_p64_g30,t5small")
    assert facts["benchmark"] == "training"
    assert set(facts["cases"]) == {"opt125m_p64_g30", "t5small_p64_g30"}
    for case in facts["cases"].values():
        assert case["ratio"] > 0
        assert case["peak_memory_ratio"] > 0
        ours, theirs = case["first_loss"].values()
        assert ours == pytest.approx(theirs, rel=1e-2)
        assert set(case["pairs"][0]) == {"ours", "theirs"}
        rate = case["ours_flops_per_second"]
        rationales = case["case"]["group"] * case["case"]["questions"]
        assert rate == pytest.approx(case["ours_flops"] * case["ours_rationales_per_second"] / rationales, rel=0.02)
        assert case["ours_share_of_peak"] == pytest.approx(rate / facts["peaks"]["flops"], abs=1e-4)
        products_alone = rationales * facts["peaks"]["flops"] / case["ours_flops"]
        assert case["ratio_at_peak"] == pytest.approx(products_alone / case["theirs_rationales_per_second"], rel=0.05)


def test_memory_of_a_whole_job():
    facts = last_line("sampling_memory", "--questions=4,8", "--n=2", "--tokens=2")
    assert facts["benchmark"] == "sampling_memory"
    small, large = facts["cases"]["4"], facts["cases"]["8"]
    assert (small["responses"], large["responses"]) == (8, 16)
    assert facts["bytes_per_question"] == round((large["peak_bytes"] - small["peak_bytes"]) / 4)


def test_input_is_compared_with_the_step_that_consumes_it():
    facts = last_line("input", "--shrink")
    assert facts["benchmark"] == "input"
    assert facts["corpus"]["responses"] == 30 * facts["corpus"]["questions"] == 1200
    assert facts["cases"].keys() == {"g1", "g30"}
    for name, case in facts["cases"].items():
        rates = case["loader_rationales_per_second"], case["step_rationales_per_second"]
        assert case["ratio"] == pytest.approx(rates[0] / rates[1], rel=0.05, abs=0.1)  # what is printed is rounded
        per_batch = case["loader_rationales_per_second"] / case["loader_batches_per_second"]
        assert per_batch == pytest.approx(32 * int(name[1:]), rel=0.05)
        assert 0 <= case["waiting_share"] < 1


def test_the_work_of_one_token():
    """Two questions of 3 samples, 5 shared and 4 own tokens, 1 new token, worked out by hand."""
    config = registry.config_for("opt-tiny")
    layer = 4 * 64 * 64 + 2 * 64 * 256
    shape = {"questions": 2, "batch": 2, "n": 3, "prompt": 4, "shared": 5, "tokens": 1, "itemsize": 2}
    work = sampling_work(config, **shape, peaks=Peaks(1e9, 1e9))
    assert work["decode"] == work["step"]
    assert work["step"].flops == 6 * (2 * (2 * layer + 256 * 64) + 2 * 2 * 2 * 64 * 10)
    assert work["step"].bytes == 2 * (2 * layer + 256 * 64 + 2 * 2 * 64 * (5 + 2 * 4 + 6))
    pairs = 2 * (4 * 5 + 1 + 2 + 3 + 4) + (1 + 2 + 3 + 4 + 5)
    weights = layer + 2 * 64 * 64  # of the last layer keys and values alone
    assert work["prefill"].flops == 2 * (2 * 4 + 5) * weights + 2 * 2 * 64 * pairs
    assert work["step"].seconds == max(work["step"].flops, work["step"].bytes) / 1e9
    assert work["all"].seconds == work["prefill"].seconds + work["decode"].seconds


def test_prompts_share_what_they_should():
    first, second = Case("opt-tiny", shared=5, question=4, questions=2).prompts(256)
    assert first[:5] == second[:5]
    assert first[5:] != second[5:]
    assert len(first) == len(second) == 9
