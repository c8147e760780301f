"""Writes the hashed requirements: `pip install uv`, then `python requirements/lock.py` in the root of the repository.

base.txt has everything that scotd_jax needs on a CPU, cuda.txt and tpu.txt what an accelerator adds, and gcs.txt what
reads and writes gs://, at the versions of constraints.txt and requirements/constraints-cuda.txt, with the hashes of all
files that pypi.org has. They hold for Python 3.11 and later on every platform.
"""

import re
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent
COMPILE = """
    uv pip compile pyproject.toml --no-config --default-index https://pypi.org/simple --universal --python-version 3.11
    -c constraints.txt -c requirements/constraints-cuda.txt --generate-hashes --no-annotate --no-header --quiet
"""


def compile_requirements(*options: str) -> dict[str, str]:
    """Resolves the dependencies, and returns the lines of each requirement by its first line."""
    command = [*COMPILE.split(), *options]
    text = subprocess.run(command, cwd=FOLDER.parent, check=True, capture_output=True, text=True).stdout
    return {entry.splitlines()[0]: entry for entry in re.split(r"^(?=[a-z])", text, flags=re.M) if entry.strip()}


def main() -> None:
    """Writes the files."""
    base = compile_requirements()
    files = {"base": base}
    for extra in ("cuda", "gcs", "tpu"):
        files[extra] = {
            key: entry for key, entry in compile_requirements(f"--extra={extra}").items() if key not in base
        }
    for name, entries in files.items():
        header = (
            "# Written by requirements/lock.py. To install: pip install --require-hashes -r requirements/base.txt\n"
        )
        (FOLDER / f"{name}.txt").write_text(header + "".join(entries.values()))


if __name__ == "__main__":
    main()
