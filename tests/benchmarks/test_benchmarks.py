"""The benchmarks run on tiny shapes and print consistent results."""

import importlib.util
import json

import pytest

from benchmarks import statistics
from benchmarks.roofline import Peaks, sampling_costs
from benchmarks.sampling_peers import SamplingCase
from scotd_jax.models import registry
from tests.helpers.cli import run_program

pytestmark = pytest.mark.slow


def run_benchmark(module: str, *arguments: str) -> dict:
    """Returns the JSON object in the last line of a benchmark's output."""
    done = run_program(f"benchmarks.{module}", *arguments, fast_compilation=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.exhaustive
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_sampling_benchmark_compares_with_torch():
    facts = run_benchmark("sampling", "--shrink", "--pairs=2", "--cases=opt125m_fewshot700")
    assert facts["benchmark"] == "sampling"
    assert set(facts) == {"benchmark", "cases", "peaks", "versions", "pairs", "device"}
    (case,) = facts["cases"].values()
    assert len(case["pairs"]) == 2
    ratios = sorted(pair["scotd"] / pair["torch"] for pair in case["pairs"])
    assert case["ratio"] == pytest.approx(sum(ratios) / 2, rel=0.05)  # the output is rounded
    for name in ("scotd", "torch"):
        assert case[f"{name}_tokens_per_second"] > 0
        memory = case["memory"][name]
        assert 0 < memory["imports_mib"] <= memory["loaded_mib"] <= memory["peak_mib"]
    peaks = [case["memory"][name]["peak_mib"] for name in ("scotd", "torch")]
    assert case["peak_memory_ratio"] == pytest.approx(peaks[0] / peaks[1], rel=0.02)
    assert case["torch_setting"]["dtype"] == "float32"
    assert case["torch_prefix_reuse_tokens_per_second"] > 0
    assert case["roofline"]["share"] > 0


@pytest.mark.exhaustive
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_training_benchmark_compares_with_torch_at_equal_loss():
    facts = run_benchmark("training", "--shrink", "--pairs=1", "--cases=opt125m_p64_g30,t5small")
    assert facts["benchmark"] == "training"
    assert set(facts["cases"]) == {"opt125m_p64_g30", "t5small_p64_g30"}
    for case in facts["cases"].values():
        assert case["ratio"] > 0
        assert case["peak_memory_ratio"] > 0
        scotd, torch = case["first_loss"].values()
        assert scotd == pytest.approx(torch, rel=1e-2)
        assert set(case["pairs"][0]) == {"scotd", "torch"}
        rate = case["scotd_flops_per_second"]
        rationales = case["case"]["group"] * case["case"]["questions"]
        assert rate == pytest.approx(case["scotd_flops"] * case["scotd_rationales_per_second"] / rationales, rel=0.02)
        assert case["scotd_share_of_peak"] == pytest.approx(rate / facts["peaks"]["flops"], abs=1e-4)
        rate_at_peak = rationales * facts["peaks"]["flops"] / case["scotd_flops"]
        assert case["ratio_at_peak"] == pytest.approx(rate_at_peak / case["torch_rationales_per_second"], rel=0.05)


@pytest.mark.exhaustive
def test_sampling_memory_benchmark_reports_bytes_per_question():
    facts = run_benchmark("sampling_memory", "--questions=4,8", "--n=2", "--tokens=2")
    assert facts["benchmark"] == "sampling_memory"
    small, large = facts["cases"]["4"], facts["cases"]["8"]
    assert (small["responses"], large["responses"]) == (8, 16)
    assert facts["bytes_per_question"] == round((large["peak_bytes"] - small["peak_bytes"]) / 4)


def test_import_memory_benchmark_compares_with_the_limit():
    facts = run_benchmark("import_memory", "--layers=3", "--width=64", "--shards=2", "--formats=flax")
    assert facts["benchmark"] == "import_memory"
    case = facts["cases"]["flax"]
    assert case["parameter_bytes"] > case["files_bytes"] > case["largest_file_bytes"]  # embeddings become float32
    assert case["peak_bytes"] >= case["libraries_bytes"] > case["parameter_bytes"]
    assert case["limit_bytes"] == case["largest_file_bytes"] + 500 * 2**20
    assert case["within_limit"] == (case["above_parameters_bytes"] < case["limit_bytes"])


def test_input_benchmark_compares_loader_and_step():
    facts = run_benchmark("input", "--shrink")
    assert facts["benchmark"] == "input"
    assert facts["corpus"]["responses"] == 30 * facts["corpus"]["questions"] == 1200
    assert facts["cases"].keys() == {"g1", "g30"}
    for name, case in facts["cases"].items():
        rates = case["loader_rationales_per_second"], case["step_rationales_per_second"]
        assert case["ratio"] == pytest.approx(rates[0] / rates[1], rel=0.05, abs=0.1)  # the output is rounded
        # 32 questions with 1 or 30 responses, as in the name of the case
        per_batch = case["loader_rationales_per_second"] / case["loader_batches_per_second"]
        assert per_batch == pytest.approx(32 * int(name[1:]), rel=0.05)
        assert 0 <= case["input_wait_share"] < 1


def test_sampling_costs_match_a_calculation_by_hand():
    """Two questions with 3 responses of 1 token each; prompts of 5 shared tokens and 4 of the question."""
    config = registry.config_for("opt-tiny")
    layer = 4 * 64 * 64 + 2 * 64 * 256
    sizes = {"questions": 2, "batch": 2, "n": 3, "prompt": 4, "shared": 5, "tokens": 1, "itemsize": 2}
    costs = sampling_costs(config, **sizes, peaks=Peaks(1e9, 1e9))
    assert costs["decode"] == costs["step"]
    assert costs["step"].flops == 6 * (2 * (2 * layer + 256 * 64) + 2 * 2 * 2 * 64 * 10)
    assert costs["step"].bytes == 2 * (2 * layer + 256 * 64 + 2 * 2 * 64 * (5 + 2 * 4 + 6))
    attended = 2 * (4 * 5 + 1 + 2 + 3 + 4) + (1 + 2 + 3 + 4 + 5)
    weights = layer + 2 * 64 * 64  # the last layer computes keys and values only
    assert costs["prefill"].flops == 2 * (2 * 4 + 5) * weights + 2 * 2 * 64 * attended
    assert costs["step"].seconds == max(costs["step"].flops, costs["step"].bytes) / 1e9
    assert costs["total"].seconds == costs["prefill"].seconds + costs["decode"].seconds


def test_prompts_of_a_case_share_their_prefix():
    first, second = SamplingCase("opt-tiny", shared=5, question=4, questions=2).prompts(256)
    assert first[:5] == second[:5]
    assert first[5:] != second[5:]
    assert len(first) == len(second) == 9


def test_statistics_benchmark_reports_coverage_and_size_of_every_case(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["statistics", "--simulations=4"])
    statistics.main()
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["benchmark"] == "statistics"
    names = [case.name for case in statistics.CASES]
    assert list(facts["coverage"]) == list(facts["size"]) == names
    assert len(set(names)) == len(names)
    assert {int(name.split(",")[0].removeprefix("runs ")) for name in names} == {1, 3, 5, 10}
    for shares in (*facts["coverage"].values(), *facts["size"].values()):
        assert all(0 <= share <= 1 for share in shares.values())
