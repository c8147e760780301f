"""Progress lines of downloads, in place of the bars of huggingface_hub."""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scotd_jax.progress import Progress, log

MEGABYTE = 10**6
_MAX_NAMED_FILES = 3  # more files are only counted


@contextlib.contextmanager
def download_progress(repo: str, sizes: Mapping[str, int], quiet: bool) -> Iterator[Callable[..., Any]]:
    """Prints the progress of a download. Yields the `tqdm_class` for huggingface_hub.

    Args:
      repo: the repository.
      sizes: the files and their sizes in bytes.
      quiet: whether to print nothing.
    """
    total = sum(sizes.values())
    files = ", ".join(sizes) if len(sizes) <= _MAX_NAMED_FILES else f"{len(sizes)} files"
    process_index = 1 if quiet else 0  # only process 0 prints
    if total < MEGABYTE:
        yield functools.partial(_DownloadBar, lambda done: None)
        log(f"fetched {repo}: {files} ({format_size(total)})", process_index=process_index)
        return
    megabytes = math.ceil(total / MEGABYTE)
    with Progress(megabytes, f"fetching {repo}", "MB", scope=files, process_index=process_index) as progress:

        def report(done: int) -> None:
            # Bytes are counted twice, as received and as written, which differ if the transfer is compressed.
            progress.advance(max(min(done // MEGABYTE, megabytes) - progress.done, 0))

        yield functools.partial(_DownloadBar, report)
        progress.advance(megabytes - progress.done)


def format_size(size: int) -> str:
    """Formats a number of bytes with three digits: "651 B", "2.35 kB", "251 MB"."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 99.95 else f"{value:.3g} {units[0]}"


class _DownloadBar:
    """The part of tqdm's interface that huggingface_hub uses.

    A bar with the unit "B" calls `report` with the number of bytes so far; other bars do nothing.
    """

    def __init__(self, report: Callable[[int], None], *args: Any, total: int = 0, unit: str = "", **options: Any):
        self.total, self.n, self.format_dict = total, 0, {}
        self._report = report if unit == "B" else None
        self._lock = threading.Lock()  # files are downloaded in threads

    def __enter__(self) -> "_DownloadBar":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int | float | None = 1) -> None:
        with self._lock:
            self.n += int(n or 0)
            if self._report is not None:
                self._report(self.n)

    def _ignore(self, *args: Any, **options: Any) -> None:
        """Bars are not drawn."""

    close = refresh = set_description = set_description_str = set_postfix_str = _ignore
