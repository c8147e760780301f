"""Throughput of the data loader, compared with the training step that consumes its batches.

    python -m benchmarks.input [--questions=2000] [--seconds=10] [--updates=4] [--architecture=opt-125m] [--shrink]

Writes a corpus of random tokens with realistic lengths and 30 responses per question. Then measures, with G = 1 and
G = 30 responses per question of a batch:

loader      batches per second and rationales per second of the data loader alone, with 32 questions per batch
step        rationales per second of the training loop on the same corpus, with a model of random weights and fewer
            questions per batch, without the first update, which compiles. `input_wait_share` is the share of the
            training time in which the device waits for a batch, including the first one
ratio       ratio of the two rates in rationales per second

Loader and step are measured one after the other in this process and use the whole machine.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.paired_runs import describe_machine, versions
from scotd_jax import config as c

RESPONSES, BATCH, SHARDS = 30, 32, 4
CASES = {"g1": (1, 8), "g30": (30, 1)}  # responses per question, questions per batch of the step
PROMPT_TOKENS, RESPONSE_TOKENS = (40, 100), (20, 80)  # minimum and maximum
TARGET = 20  # minimum ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2000, help="questions of the corpus")
    parser.add_argument("--seconds", type=float, default=10, help="duration of the loader measurement")
    parser.add_argument("--updates", type=int, default=4, help="timed updates of the step")
    parser.add_argument("--architecture", default="opt-125m", help="model of the step")
    parser.add_argument("--shrink", action="store_true", help="tiny shapes, as a smoke test")
    args = parser.parse_args()
    if args.shrink:
        args.questions, args.seconds, args.updates, args.architecture = 40, 0.1, 2, "opt-tiny"
    import jax

    from scotd_jax.models import registry

    config, cases = registry.config_for(args.architecture), {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        counts = write_random_corpus(corpus, args.questions, config.vocab_size)
        for name, (group, questions) in CASES.items():
            cases[name] = measure_loader(corpus, group, config.start_token, args.seconds)
            cases[name] |= measure_step(corpus, Path(folder) / name, config, group, questions, args.updates)
            loader, step = (cases[name][f"{part}_rationales_per_second"] for part in ("loader", "step"))
            cases[name]["ratio"] = round(loader / step, 1)
            print(f"{name}: {json.dumps(cases[name])}", flush=True)
    output = {"benchmark": "input", "cases": cases, "target": TARGET, "corpus": counts}
    output |= {"architecture": args.architecture, "updates": args.updates, "versions": versions()}
    print(json.dumps(output | {"device": describe_machine(jax.devices()[0].device_kind)}))


def write_random_corpus(folder: Path, questions: int, vocab_size: int) -> dict[str, Any]:
    """Writes a corpus of random token ids without special tokens. Returns its counts."""
    from scotd_jax.corpus.description import finish_corpus
    from scotd_jax.corpus.grouped_example import GroupedExample
    from scotd_jax.corpus.shards import ShardWriter, shard_range

    rng = random.Random(0)

    def tokens(minimum: int, maximum: int) -> list[int]:
        return rng.choices(range(10, vocab_size), k=rng.randint(minimum, maximum))

    def example(i: int) -> GroupedExample:
        responses = [tokens(*RESPONSE_TOKENS) for _ in range(RESPONSES)]
        return GroupedExample(f"t/train/{i}", "t", tokens(*PROMPT_TOKENS), responses, list(range(RESPONSES)))

    folder.mkdir()
    facts = []
    for shard in range(SHARDS):
        with ShardWriter(folder, "train", shard, SHARDS) as writer:
            for i in shard_range(shard, SHARDS, questions):
                writer.write(example(i))
        facts.append(writer.facts)
    counts = finish_corpus(folder, {"train": facts}, {})["train"]["counts"]
    return {name: counts[name] for name in ("questions", "responses", "prompt_tokens", "response_tokens")}


def measure_loader(corpus: Path, group: int, start_token: int | None, seconds: float) -> dict[str, float]:
    """Returns batches and rationales per second of the loader."""
    from scotd_jax.corpus.batching.loader import open_batches, prefetch_batches

    options = {"batch_size": BATCH, "group_size": group, "start_token": start_token, "seed": 0}
    loader = prefetch_batches(open_batches(corpus, **options))
    for _ in range(10):  # discards the prefetched batches
        next(loader)
    batches, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        next(loader)
        batches += 1
    loader.close()
    return {
        "loader_batches_per_second": round(batches / elapsed, 2),
        "loader_rationales_per_second": round(batches * BATCH * group / elapsed, 1),
    }


def measure_step(corpus: Path, folder: Path, config: Any, group: int, questions: int, updates: int) -> dict[str, float]:
    """Returns rates and `input_wait_share` of the training loop, which writes its checkpoints to `folder`."""
    import jax

    from scotd_jax.corpus.batching.loader import open_batches, prefetch_batches
    from scotd_jax.distributed.mesh import make_mesh
    from scotd_jax.models import registry
    from scotd_jax.models.api import Precision
    from scotd_jax.training.loop import train
    from scotd_jax.training.metrics import read_metrics

    options = {"batch_size": questions, "group_size": group, "start_token": config.start_token, "seed": 0}
    loader = prefetch_batches(open_batches(corpus, **options))
    sizes = {"steps": 1 + updates, "batch_size": questions, "group_size": group, "log_every": 1 + updates}
    training = c.Training(**sizes, optimizer=c.Optimizer(warmup_steps=0))
    model = registry.build(config, Precision("bfloat16"))
    times = train(model, None, loader, training, folder, make_mesh(c.Mesh(), jax.devices()[:1]))
    (metrics,) = read_metrics(folder / "metrics.jsonl")
    wait_share = times["seconds_input"] / (times["seconds_input"] + times["seconds_updates"])
    return {
        "step_questions": questions,
        "step_rationales_per_second": round(metrics["rationales_per_second"], 3),
        "step_flops_per_second": round(metrics["flops_per_second"]),
        "input_wait_share": round(wait_share, 5),
        **{name: value for name, value in times.items() if name != "goodput"},
    }


if __name__ == "__main__":
    main()
