"""Runs the papers' configs with `runlocal` and named students, one after the other: a check that takes an hour or more.

    python -m tests.helpers.run_matrix FOLDER [CONFIG ...] [--students=NAME,NAME]

The defaults are all configs, and base and instruction-tuned students of each architecture. FOLDER receives one work
directory per run, and `results.tsv` with config, student, seconds, and "ok" or the error. Runs that are "ok" are not
repeated.
"""

import sys
import time
import traceback
from pathlib import Path

from tests.helpers import fast_compile

CONFIGS = ("pretrained", "scotd", "step_by_step", "scicot", "transfer", "imdb")
STUDENTS = (
    *("smollm2-135m", "smollm2-135m-instruct", "llama-3.2-1b", "llama-3.2-1b-instruct", "tinyllama-1.1b"),
    *("qwen2.5-0.5b", "qwen2.5-0.5b-instruct", "qwen3-0.6b-base", "qwen3-0.6b"),
    *("gemma-3-270m", "gemma-3-270m-it", "smollm3-3b-base", "smollm3-3b", "opt-350m", "flan-t5-small"),
)


def main(folder: str, *arguments: str) -> int:
    """Runs the pairs that have no result yet and returns 1 if one fails."""
    chosen = [each.partition("=")[2].split(",") for each in arguments if each.startswith("--students=")]
    configs = [each for each in arguments if not each.startswith("--")] or CONFIGS
    results = Path(folder) / "results.tsv"
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {tuple(line.split("\t")[:2]) for line in _lines(results) if line.endswith("\tok")}
    failed = False
    for config in configs:
        for student in chosen[0] if chosen else STUDENTS:
            if (config, student) in done:
                continue
            start, outcome = time.monotonic(), _run(config, student, f"{folder}/{config}-{student}")
            with results.open("a") as file:
                file.write(f"{config}\t{student}\t{time.monotonic() - start:.0f}\t{outcome}\n")
            failed |= outcome != "ok"
    return int(failed)


def _run(config: str, student: str, workdir: str) -> str:
    """Runs one config and returns "ok" or the error."""
    from configs import common
    from scotd_jax import config as c
    from scotd_jax.running import run

    try:
        run(c.sibling(common.__file__, config).get_config(f"runlocal,student={student}"), workdir, (), (), "")
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return "ok"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    with fast_compile.fast_compilation():
        sys.exit(main(*sys.argv[1:]))
