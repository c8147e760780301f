"""Runs the papers' configs with `runlocal` and named students, one after the other: a check that takes an hour.

    python -m tests.helpers.run_matrix FOLDER [CONFIG ...] [--students=NAME,NAME]

The defaults are all configs, and base and instruction-tuned students of each architecture. FOLDER receives one work
directory per run, and `results.tsv` with config, student, seconds, and "ok" or the error. Runs that are "ok" are not
repeated. To save time, programs that several runs compile are compiled once (FOLDER/compiled), and the responses of the
tiny teacher, which are the same for all students, are copied from an earlier run of the config.
"""

import shutil
import sys
import time
import traceback
from pathlib import Path

import jax

from configs import common
from configs.runlocal import LOCAL_TEACHER
from scotd_jax import config as c
from scotd_jax.running import InterruptedRun, run
from scotd_jax.strict_json import read_json
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
            workdir = Path(folder, f"{config}-{student}")
            earlier = [Path(folder, f"{config}-{other}") for name, other in done if name == config]
            start = time.monotonic()
            if earlier and not workdir.exists():
                _copy_teacher(earlier[0], workdir)
            outcome = _run(config, student, workdir)
            with results.open("a") as file:
                file.write(f"{config}\t{student}\t{time.monotonic() - start:.0f}\t{outcome}\n")
            if outcome == "ok":
                done.add((config, student))
            failed |= outcome != "ok"
    return int(failed)


def _copy_teacher(earlier: Path, workdir: Path) -> None:
    """Copies the tiny teacher and its responses. A run refuses them if they are not what it would make itself."""
    for kind in ("corpora", "students"):
        shutil.copytree(earlier / kind / LOCAL_TEACHER, workdir / kind / LOCAL_TEACHER)
    for manifest in earlier.glob("rationales/*/manifest.json"):
        if read_json(manifest)["identity"]["model"]["config"]["student"] == LOCAL_TEACHER:
            shutil.copytree(manifest.parent, workdir / "rationales" / manifest.parent.name)


def _run(config: str, student: str, workdir: Path) -> str:
    """Runs one config and returns "ok" or the error. Ends the program if the run is interrupted; it resumes later."""
    try:
        run(c.sibling(common.__file__, config).get_config(f"runlocal,student={student}"), str(workdir), (), (), "")
    except InterruptedRun as interrupted:
        sys.exit(interrupted.status)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return "ok"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    jax.config.update("jax_compilation_cache_dir", f"{sys.argv[1]}/compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    with fast_compile.fast_compilation():
        sys.exit(main(*sys.argv[1:]))
