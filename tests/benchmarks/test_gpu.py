"""The measurements of one GPU run on tiny shapes, in a process of their own."""

import json

import pytest

from benchmarks import gpu
from tests.helpers.cli import run_program
from tests.helpers.tolerances import BFLOAT16


@pytest.mark.compile  # of the tests for accelerators that are absent; takes 20 seconds of CPU time
def test_gpu_benchmark_reports_correctness_memory_and_shares():
    done = run_program("benchmarks.gpu", "--shrink", fast_compilation=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
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
