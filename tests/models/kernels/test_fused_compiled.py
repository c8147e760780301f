"""Updates compiled for absent GPUs hold no attention scores."""

import jax
import pytest

from benchmarks.attention import score_arrays
from benchmarks.compile_cases import update_workload
from scotd_jax import config
from scotd_jax.distributed import topologies
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.jobs.planning.training_program import training_program

QUESTIONS, PROMPT, RESPONSE = 3, 512, 256
HEADS = {"opt-1.3b": 32, "t5-large": 16, "smollm2-135m": 9}


def test_score_arrays_are_found_by_their_axes():
    text = (
        "f32[96,704,704]{2,1,0} f32[3,32,704,704] bf16[3,32,256,1,704] f32[32,704,704] pred[3,32,704,704] f32[3,704,64]"
    )
    assert score_arrays(text, 32, (704, 256)) == {"f32[96,704,704]", "f32[3,32,704,704]", "bf16[3,32,256,1,704]"}
    assert not score_arrays("f32[32,704,704] f32[30720,2048] f32[3,704,704]", 32, (704, 256))


@pytest.mark.compile
@pytest.mark.parametrize("name", ["h100-1", "h200-1"])
@pytest.mark.parametrize("architecture", HEADS)
def test_update_on_a_gpu_holds_no_scores(architecture, name):
    topologies.use_cpu_only(1)
    topology = topologies.parse_topology(name)
    if obstacle := topologies.compile_obstacle(topology):
        pytest.skip(obstacle)
    mesh = make_mesh(config.Mesh(), topologies.described_devices(topology))

    def scores(attention: str) -> set[str]:
        settings = config.Training(batch_size=QUESTIONS, attention=attention)
        workload = update_workload(architecture, settings, PROMPT, RESPONSE)
        program = training_program(workload, mesh, "cuda", layers=2)
        with jax.debug_key_reuse(False):  # no key is ever used
            text = program.function.lower(*program.arguments).compile().as_text()
        return score_arrays(text, HEADS[architecture], (PROMPT, RESPONSE))

    assert scores("xla"), "the search finds scores where they are held"
    assert not scores("auto")
