"""The measurements of one GPU run on tiny shapes."""

import json

import pytest

from benchmarks import gpu
from tests.helpers.tolerances import BFLOAT16

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compilation")]


def test_gpu_benchmark_reports_correctness_memory_and_shares(capsys):
    results = gpu.main(["--shrink"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == json.loads(json.dumps(results))
    assert 0 < results["attention_opt"] < BFLOAT16
    assert 0 < results["attention_t5"] < BFLOAT16
    update, sampling = results["update"], results["sampling"]
    assert update["seconds"] > 0
    assert not update["fused_attention"], "auto is XLA's attention on a CPU"
    assert update["compiled_bytes"] > 0 < update["planned_bytes"]
    assert sampling["tokens_per_second"] > 0 < sampling["bandwidth_share"]


def test_gpu_benchmark_refuses_a_cpu_without_shrink(capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "the device is cpu, not a GPU" in capsys.readouterr().err
