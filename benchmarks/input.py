"""How much faster batches are read than a training step consumes them, and how long devices wait for them.

    python -m benchmarks.input [--questions=2000] [--seconds=10] [--updates=4] [--architecture=opt-125m] [--shrink]

Makes a corpus of invented tokens in the shape of a real one, with 30 responses to every question. Then, for G = 1 and
G = 30 responses per question and visit:

loader      batches of 32 questions are taken from the training loader for some seconds, and nothing else is done
step        the real training loop makes some updates of a model of random weights on the same corpus, with fewer
            questions at a time, and says how many rationales per second it consumed (the update that is compiled is
            left out) and for what share of the time in which it made updates the device had nothing to do and waited
            for a batch, the very first one included
ratio       rationales per second of the loader, divided by those of the step

Loader and step are measured one after the other, in this process and on all of the machine.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.sides import described, versions
from scotd_jax import config as c

RESPONSES, BATCH = 30, 32
CASES = {"g1": (1, 8), "g30": (30, 1)}  # responses per question and visit, questions per update of the step
PROMPTS, LENGTHS = (40, 100), (20, 80)  # tokens, at least and at most
TARGET = 20  # times as fast as the step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2000, help="of the corpus")
    parser.add_argument("--seconds", type=float, default=10, help="for which the loader is measured")
    parser.add_argument("--updates", type=int, default=4, help="of the step, after the one that is compiled")
    parser.add_argument("--architecture", default="opt-125m", help="of the step's model")
    parser.add_argument("--shrink", action="store_true", help="tiny shapes, to see that everything works")
    args = parser.parse_args()
    if args.shrink:
        args.questions, args.seconds, args.updates, args.architecture = 40, 0.1, 2, "opt-tiny"
    import jax

    from scotd_jax.models import registry

    config, cases = registry.config_for(args.architecture), {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        made = write(corpus, args.questions, config.vocab_size)
        for name, (group, questions) in CASES.items():
            cases[name] = loading(corpus, group, config.start_token, args.seconds)
            cases[name] |= consuming(corpus, Path(folder) / name, config, group, questions, args.updates)
            loader, step = (cases[name][f"{side}_rationales_per_second"] for side in ("loader", "step"))
            cases[name]["ratio"] = round(loader / step, 1)
            print(f"{name}: {json.dumps(cases[name])}", flush=True)
    facts = {"benchmark": "input", "cases": cases, "target": TARGET, "corpus": made}
    facts |= {"architecture": args.architecture, "updates": args.updates, "versions": versions()}
    print(json.dumps(facts | {"device": described(jax.devices()[0].device_kind)}))


def write(folder: Path, questions: int, vocab_size: int) -> dict[str, Any]:
    """A corpus of random ids, none of them special. Its counts."""
    from scotd_jax.corpus.description import write_corpus
    from scotd_jax.corpus.encode import GroupedExample

    rng = random.Random(0)

    def text(least: int, most: int) -> list[int]:
        return rng.choices(range(10, vocab_size), k=rng.randint(least, most))

    def examples() -> Iterator[GroupedExample]:
        for i in range(questions):
            said = [text(*LENGTHS) for _ in range(RESPONSES)]
            yield GroupedExample(f"t/train/{i}", "t", text(*PROMPTS), said, list(range(RESPONSES)))

    folder.mkdir()
    counts = write_corpus(folder, "train", examples(), 4, {})["counts"]
    return {name: counts[name] for name in ("questions", "responses", "prompt_tokens", "response_tokens")}


def loading(corpus: Path, group: int, start_token: int | None, seconds: float) -> dict[str, float]:
    from scotd_jax.corpus.batching.loader import make_loader

    loader = make_loader(corpus, batch_size=BATCH, group_size=group, start_token=start_token, seed=0)
    for _ in range(10):  # what was read ahead is no measure
        next(loader)
    batches, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        next(loader)
        batches += 1
    loader.close()
    return {
        "loader_batches_per_second": round(batches / spent, 2),
        "loader_rationales_per_second": round(batches * BATCH * group / spent, 1),
    }


def consuming(corpus: Path, folder: Path, config: Any, group: int, questions: int, updates: int) -> dict[str, float]:
    import jax

    from scotd_jax.corpus.batching.loader import make_loader
    from scotd_jax.distributed.mesh import make_mesh
    from scotd_jax.models import registry
    from scotd_jax.models.api import Precision
    from scotd_jax.training.loop import train
    from scotd_jax.training.metrics import read_metrics

    loader = make_loader(corpus, batch_size=questions, group_size=group, start_token=config.start_token, seed=0)
    sizes = {"steps": 1 + updates, "batch_size": questions, "group_size": group, "log_every": 1 + updates}
    training = c.Training(**sizes, optimizer=c.Optimizer(warmup_steps=0))
    model = registry.build(config, Precision("bfloat16"))
    spent = train(model, None, loader, training, folder, make_mesh(c.Mesh(), jax.devices()[:1]))
    (line,) = read_metrics(folder / "metrics.jsonl")
    waiting = spent["seconds_input"] / (spent["seconds_input"] + spent["seconds_updates"])
    return {
        "step_questions": questions,
        "step_rationales_per_second": round(line["rationales_per_second"], 3),
        "step_flops_per_second": round(line["flops_per_second"]),
        "waiting_share": round(waiting, 5),
        **{name: value for name, value in spent.items() if name != "goodput"},
    }


if __name__ == "__main__":
    main()
