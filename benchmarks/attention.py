"""What attention costs a TPU in memory and traffic, by XLA and fused into kernels: compiled, for chips not here.

    python -m benchmarks.attention [--chips=v5e-1,...] [--update=v5e-16] [--shrink]

Needs libtpu (README, "What will it need?") and runs nothing. Loss and derivative of one attention of G responses of 256
tokens over themselves and over a prompt of 704 tokens that they share, in bfloat16, on one chip; and, where it is asked
for (it takes XLA many minutes), a whole update of OPT-1.3B with two of its layers over a slice (`fsdp`), in which
prompts attend, too. Of both forms:

temporaries_mib   memory that the program needs besides arguments and results
accessed_mib      what XLA says that its operations read and write (of kernels what they say themselves)
gflops            operations, as XLA counts them
gathers           how often devices gather what others have
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.sides import MIB, versions
from scotd_jax import config as c

PROMPT, RESPONSE, QUESTIONS = 704, 256, 2
FORMS = ("xla", "fused")
LIBRARIES = ("jax", "jaxlib", "libtpu")
# Responses of a question, query heads, key heads, head width
CASES = {
    "opt1.3b_g8": (8, 32, 32, 64),
    "opt1.3b_g30": (30, 32, 32, 64),
    "llama8b_g8": (8, 32, 8, 128),
    "llama8b_g30": (30, 32, 8, 128),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--chips", default="v5e-1", help="topologies, such as v5e-1,v5p-8,v6e-1, of which one chip attends"
    )
    parser.add_argument("--update", default="", help="topology of a whole update")
    parser.add_argument("--shrink", action="store_true", help="one case and a tiny model, to see that everything works")
    args = parser.parse_args()
    from scotd_jax.distributed import topologies

    topologies.use_cpu_only(1)
    found: dict[str, Any] = {}
    for name in args.chips.split(","):
        topology = topologies.parse_topology(name)
        chip, kind = topologies.described_devices(topology)[0], topology.chip.name
        for case, sizes in list(CASES.items())[: 1 if args.shrink else None]:
            found[f"{case}_{kind}"] = compared(lambda form, chip=chip, sizes=sizes: attention(form, chip, *sizes))
            print(f"{case}_{kind}: {json.dumps(found[f'{case}_{kind}'])}", flush=True)
    architecture = "opt-tiny" if args.shrink else "opt-1.3b"
    updates = {}
    if args.update:
        name = f"{architecture}_2_layers_g8_{args.update}"
        updates[name] = compared(lambda form: update(form, args.update, architecture))
    facts = {"benchmark": "attention", "compiled": True, "run": False, "cases": found, "updates": updates}
    print(
        json.dumps(
            facts | {"prompt": PROMPT, "response": RESPONSE, "questions": QUESTIONS, "versions": versions(LIBRARIES)}
        )
    )


def compared(compiled: Callable[[str], Any]) -> dict[str, Any]:
    """Both forms, and by how much less the fused one has of each."""
    sides = {form: costs(compiled(form)) for form in FORMS}
    pairs = {key: (sides["xla"][key], sides["fused"][key]) for key in ("temporaries_mib", "accessed_mib")}
    return sides | {f"times_less_{key[:-4]}": round(xla / max(fused, 0.1), 2) for key, (xla, fused) in pairs.items()}


def costs(program: Any) -> dict[str, float]:
    memory, cost = program.memory_analysis(), program.cost_analysis()
    return {
        "temporaries_mib": round(memory.temp_size_in_bytes / MIB, 1),
        "accessed_mib": round(cost["bytes accessed"] / MIB, 1),
        "gflops": round(cost["flops"] / 1e9, 1),
        "gathers": len(re.findall(r" all-gather(?:-start)?\(", program.as_text())),
    }


def attention(form: str, chip: Any, G: int, H: int, K: int, Dh: int) -> Any:
    """One attention forward and backward on one chip."""
    import jax
    import jax.numpy as jnp

    from scotd_jax.distributed.mesh import make_mesh
    from scotd_jax.distributed.sharding import replicated
    from scotd_jax.models.attention import causal, grouped_attention
    from scotd_jax.models.kernels import fused_attention

    mesh = make_mesh(c.Mesh(), [chip])
    attend = fused_attention.attention(form, mesh) or grouped_attention

    def array(shape: Sequence[int], dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(mesh))

    def total(query, shared, own, mask):
        """Keys and values come as projections give them."""
        shared, own = ([x.swapaxes(-3, -2) for x in pair] for pair in (shared, own))
        out = attend(query, [(*shared, mask)], [(*own, causal(RESPONSE, RESPONSE), None)], Dh**-0.5)
        return jnp.square(out.astype(jnp.float32)).sum()

    B, P, R = QUESTIONS, PROMPT, RESPONSE
    shared, own = [array((B, P, K, Dh))] * 2, [array((B, G, R, K, Dh))] * 2
    step = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    return step.lower(array((B, G, R, H, Dh)), shared, own, array((B, P), jnp.bool_)).compile()


def update(form: str, name: str, architecture: str) -> Any:
    from scotd_jax.distributed import topologies
    from scotd_jax.distributed.mesh import make_mesh
    from scotd_jax.jobs.planning.lowered_programs import training_call
    from scotd_jax.jobs.planning.workloads import Training
    from scotd_jax.models import registry
    from scotd_jax.training.step import ONE_PART

    devices = topologies.described_devices(topologies.parse_topology(name))
    mesh = make_mesh(c.Mesh(data=1, fsdp=len(devices)), devices)
    settings = c.Training(batch_size=QUESTIONS * len(devices), group_size=8, attention=form)
    sizes = {"prompt": PROMPT, "group": 8, "response": RESPONSE, "updates": settings.steps}
    work = Training((), (), registry.config_for(architecture), "bfloat16", settings, ONE_PART, **sizes)
    call = training_call(work, mesh, "tpu", layers=2)
    return call.function.lower(*call.arguments).compile()


if __name__ == "__main__":
    main()
