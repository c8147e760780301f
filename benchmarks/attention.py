"""Memory and memory traffic of attention on TPUs and GPUs, with and without fused kernels, without such a device.

    python -m benchmarks.attention [--chips=v5e-1,h200-1,...] [--update=v5e-16] [--shrink]

Needs libtpu for TPUs and JAX's CUDA plugin for GPUs, and compiles without running anything. Compiles loss and gradient
of one attention operation, in which G responses of 256 tokens attend to themselves and to a shared prompt of 704
tokens, in bfloat16 on one chip. With `--update`, also compiles a training update of OPT-1.3B with two layers, sharded
over a slice (`fsdp`); this takes many minutes. Prints for "xla" (plain XLA operations) and "fused" (fused kernels):

temporaries_mib   temporary memory of the program
accessed_mib      MiB read and written according to XLA's cost analysis (kernels declare theirs), on TPUs
gflops            GFLOPs according to XLA's cost analysis, on TPUs
gathers           number of all-gathers
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.paired_runs import MIB, versions
from scotd_jax import config as c

PROMPT, RESPONSE, QUESTIONS = 704, 256, 2
FORMS = ("xla", "fused")
LIBRARIES = ("jax", "jaxlib")
# Arguments G, H, K, Dh of compile_attention
CASES = {
    "opt1.3b_g8": (8, 32, 32, 64),
    "opt1.3b_g30": (30, 32, 32, 64),
    "llama8b_g8": (8, 32, 8, 128),
    "llama8b_g30": (30, 32, 8, 128),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--chips", default="v5e-1", help="topologies, comma-separated (v5e-1,v5p-8,v6e-1); one chip of each is used"
    )
    parser.add_argument("--update", default="", help="topology of the training update")
    parser.add_argument("--shrink", action="store_true", help="one case and a tiny model, as a smoke test")
    args = parser.parse_args()
    from scotd_jax.distributed import topologies

    topologies.use_cpu_only(1)
    results: dict[str, Any] = {}
    compilers = set(map(compiler_package, args.chips.split(",")))
    for name in args.chips.split(","):
        topology = topologies.parse_topology(name)
        chip, kind = topologies.described_devices(topology)[0], topology.chip.name
        for case, sizes in list(CASES.items())[: 1 if args.shrink else None]:
            result = compare(lambda form, chip=chip, sizes=sizes: compile_attention(form, chip, *sizes))
            results[f"{case}_{kind}"] = result
            print(f"{case}_{kind}: {json.dumps(result)}", flush=True)
    architecture = "opt-tiny" if args.shrink else "opt-1.3b"
    updates = {}
    if args.update:
        name = f"{architecture}_2_layers_g8_{args.update}"
        updates[name] = compare(lambda form: compile_update(form, args.update, architecture))
    output = {"benchmark": "attention", "compiled": True, "run": False, "cases": results, "updates": updates}
    output |= {
        "prompt": PROMPT,
        "response": RESPONSE,
        "questions": QUESTIONS,
        "versions": versions((*LIBRARIES, *compilers)),
    }
    print(json.dumps(output))


def compare(compile_form: Callable[[str], Any]) -> dict[str, Any]:
    """Returns the costs of both forms, and the ratios of "xla" to "fused" as `*_reduction`."""
    results = {form: costs(compile_form(form)) for form in FORMS}
    keys = [key for key in ("temporaries_mib", "accessed_mib") if key in results["xla"]]
    pairs = {key: (results["xla"][key], results["fused"][key]) for key in keys}
    reductions = {f"{key[:-4]}_reduction": round(xla / max(fused, 0.1), 2) for key, (xla, fused) in pairs.items()}
    return results | reductions


def costs(program: Any) -> dict[str, float]:
    """Returns the costs of a compiled program."""
    memory, cost = program.memory_analysis(), program.cost_analysis()
    counted = {"temporaries_mib": round(memory.temp_size_in_bytes / MIB, 1)}
    if cost is not None:  # XLA for absent GPUs counts nothing
        counted["accessed_mib"] = round(cost["bytes accessed"] / MIB, 1)
        counted["gflops"] = round(cost["flops"] / 1e9, 1)
    return counted | {"gathers": len(re.findall(r" all-gather(?:-start)?\(", program.as_text()))}


def score_arrays(text: str, heads: int, lengths: Sequence[int]) -> set[str]:
    """Returns the types of a compiled program's arrays that hold attention scores of several questions.

    They are floating-point arrays with two axes of tokens, and a multiple of `heads` in the other axes. An array for
    the heads alone is a position bias, which is the same for all questions.

    Args:
      text: the compiled program.
      heads: number of query heads on a device.
      lengths: lengths of the axes of tokens.
    """
    found = set()
    for name, axes in set(re.findall(r"\b((?:f32|bf16|f16)\[([\d,]+)\])", text)):
        sizes = [int(size) for size in axes.split(",")]
        tokens = [size for size in sizes if size in lengths]
        others = math.prod(sizes) // math.prod(tokens[-2:])
        if len(tokens) >= 2 and others > heads and others % heads == 0:
            found.add(name)
    return found


def compile_attention(form: str, chip: Any, G: int, H: int, K: int, Dh: int) -> Any:
    """Compiles one attention operation, forward and backward, for one chip.

    Args:
      form: "xla" or "fused".
      chip: the described device.
      G: responses per question.
      H: query heads.
      K: key heads.
      Dh: head width.
    """
    import jax
    import jax.numpy as jnp

    from scotd_jax.distributed.mesh import make_mesh
    from scotd_jax.distributed.sharding import replicated
    from scotd_jax.models.attention import causal_mask, grouped_attention
    from scotd_jax.models.kernels import fused_attention

    mesh = make_mesh(c.Mesh(), [chip])
    attend = fused_attention.select_attention(form, mesh) or grouped_attention

    def array(shape: Sequence[int], dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(mesh))

    def loss(query, shared, own, mask):
        # Projections produce [.., token, head, width], but attention needs keys and values as [.., head, token, width].
        shared, own = ([x.swapaxes(-3, -2) for x in pair] for pair in (shared, own))
        out = attend(query, [(*shared, mask)], [(*own, causal_mask(RESPONSE, RESPONSE), None)], Dh**-0.5)
        return jnp.square(out.astype(jnp.float32)).sum()

    B, P, R = QUESTIONS, PROMPT, RESPONSE
    shared, own = [array((B, P, K, Dh))] * 2, [array((B, G, R, K, Dh))] * 2
    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    return step.lower(array((B, G, R, H, Dh)), shared, own, array((B, P), jnp.bool_)).compile()


def compile_update(form: str, name: str, architecture: str) -> Any:
    """Compiles a training update of a model with two layers for topology `name`."""
    from scotd_jax.distributed import topologies
    from scotd_jax.distributed.mesh import make_mesh, mesh_platform
    from scotd_jax.jobs.planning.training_program import training_program

    devices = topologies.described_devices(topologies.parse_topology(name))
    mesh = make_mesh(c.Mesh(data=1, fsdp=len(devices)), devices)
    settings = c.Training(batch_size=QUESTIONS * len(devices), group_size=8, attention=form)
    workload = update_workload(architecture, settings, PROMPT, RESPONSE)
    program = training_program(workload, mesh, mesh_platform(mesh), layers=2)
    return program.function.lower(*program.arguments).compile()


if __name__ == "__main__":
    main()
