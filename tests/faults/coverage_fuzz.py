"""Coverage-guided fuzzing of a reader by Atheris, which prefers mutations that reach new code of the package.

    pip install atheris
    python -m tests.faults.coverage_fuzz READER [OPTION OF libFuzzer ...]

READER is a key of READERS (tests/helpers/fuzzed_readers.py); libFuzzer's options are, for example, -max_total_time=1800
and -runs=100000. It ends at the first input that ends in another error than the documented one, takes more than 20
seconds or much memory, and writes that input to a file in the current folder.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scotd_jax"]):
    from scotd_jax.errors import InputError
    from tests.helpers.fuzzed_readers import READERS

LIMITS = ("-timeout=20", "-rss_limit_mb=4096")


def main() -> None:
    name, *options = sys.argv[1:] or [""]
    if name not in READERS:
        sys.exit(f"{name!r}: no reader; expected one of {', '.join(READERS)}")
    with tempfile.TemporaryDirectory() as root:
        valid, folder, inputs = (Path(root, part) for part in ("valid", "folder", "inputs"))
        for path in (valid, folder, inputs):
            path.mkdir()
        reader = READERS[name](valid)
        reader.prepare(folder)
        (inputs / "valid").write_bytes(reader.document)

        def read(content: bytes) -> None:
            with contextlib.suppress(InputError):
                reader.read(folder, reader.wrap(content))

        atheris.Setup([sys.argv[0], *LIMITS, *options, str(inputs)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
