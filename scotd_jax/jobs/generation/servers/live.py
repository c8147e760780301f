"""A server is asked for the samples that are missing; rows are written as they come.

A request that failed costs its own samples only: the others go on, and the same command asks again for what is
missing. Where nothing gets through any more, the job stops early.
"""

import collections
import concurrent.futures
from collections.abc import Iterator, Set
from typing import NamedTuple

from etils import epath

from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.local import Asked, collect
from scotd_jax.jobs.generation.servers.client import Endpoint, RequestError
from scotd_jax.jobs.generation.servers.remote_model import Remote
from scotd_jax.rationales.importers.imported import ImportedResponse, SourceRow, parse_rows
from scotd_jax.rationales.importers.openai import parse_choices
from scotd_jax.records import Response

TOLD = 5  # failures that are told one by one
ENOUGH = 20  # failures in a row, all alike, after which nobody asks on
PAUSE = 1.0  # seconds before the first retry


class Wanted(NamedTuple):
    """Samples of one question that one request asks for. `fruitless` requests for them brought none."""

    question_id: str
    indices: tuple[int, ...]
    fruitless: int = 0


def ask_server(run: Run, remote: Remote, asked: Asked, folder: epath.Path) -> list[epath.Path]:
    """Asks for what `folder` does not yet hold and returns the merged files.

    Raises InputError if samples are still missing at the end; those that came are there.
    """
    endpoint = Endpoint(remote.server, f"{remote.where}.server", PAUSE)

    def work(done: Set[tuple[str, int]]) -> tuple[int, Iterator[list[Response]]]:
        share = hosts.local_share(wanted(remote, asked, done))
        return sum(len(item.indices) for item in share), Asking(run, remote, endpoint, asked).answers(share)

    return collect(run, work, folder, f"  {remote.server.model} says responses", "responses", list(asked), 4)


def wanted(remote: Remote, asked: Asked, done: Set[tuple[str, int]]) -> list[Wanted]:
    """The requests for all samples that are not `done`, question by question."""
    n = remote.sampling.n
    # Equal samples are not worth asking for at once, and some servers refuse to.
    size = 1 if remote.sampling.temperature == 0 else remote.server.n_per_request or n
    found = []
    for id_ in asked:
        missing = tuple(i for i in range(n) if (id_, i) not in done)
        found += [Wanted(id_, missing[i : i + size]) for i in range(0, len(missing), size)]
    return found


class Asking:
    """Many requests at a time; all decisions are taken in the thread that reads `answers`."""

    def __init__(self, run: Run, remote: Remote, endpoint: Endpoint, asked: Asked):
        self._run, self._remote, self._endpoint, self._asked = run, remote, endpoint, asked
        self._failures = self._alike = 0  # requests that failed for good; the last of them that failed in one way
        self._told, self._last = "", ""  # the failure that is told at the end, and the way of the last one
        self._hopeless = False

    def answers(self, share: list[Wanted]) -> Iterator[list[Response]]:
        """The responses as they come. Raises InputError at the end if some did not."""
        todo = collections.deque(share)
        left = sum(len(item.indices) for item in share)
        with concurrent.futures.ThreadPoolExecutor(self._remote.server.concurrency) as pool:
            running: dict[concurrent.futures.Future, Wanted] = {}
            try:
                while running or (todo and not self._hopeless):
                    while todo and not self._hopeless and len(running) < self._remote.server.concurrency:
                        item = todo.popleft()
                        running[pool.submit(self._ask, item)] = item
                    ready, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    rows = []
                    for future in ready:
                        new, rest = self._take(future, running.pop(future))
                        rows += new
                        if rest is not None:
                            todo.appendleft(rest)
                    if rows:
                        left -= len(rows)
                        yield rows
            finally:
                self._endpoint.stop()
        if left:
            raise InputError(
                f"{self._remote.where}: {left} samples are missing, {self._failures} requests failed"
                f"{' and the rest was not asked for' if self._hopeless else ''}: {self._told}. What came "
                "is kept: the same command asks only for what is missing"
            )

    def _ask(self, wanted: Wanted) -> list[ImportedResponse]:
        """The samples that came, at most as many as were wanted. Runs in a thread of its own."""
        question, task = self._asked[wanted.question_id]
        first, count = wanted.indices[0], len(wanted.indices)
        answer = self._endpoint.post(self._remote.body(question, task, first, count), f"{wanted.question_id}#{first}")
        return usable(answer, self._endpoint.url)[:count]

    def _take(self, future: concurrent.futures.Future, wanted: Wanted) -> tuple[list[Response], Wanted | None]:
        """The rows of a request that has ended, and what is to be asked for again."""
        try:
            said = future.result()
            if not said and wanted.fruitless == self._remote.server.retries:
                raise RequestError(f"{self._endpoint.url}: answers hold no text (asked {wanted.fruitless + 1} times)")
        except RequestError as error:
            self._failed(error, wanted)
            return [], None
        question, task = self._asked[wanted.question_id]
        rows = [self._remote.response(s, question, task, i) for s, i in zip(said, wanted.indices, strict=False)]
        if rows:
            self._alike = 0
        rest = wanted.indices[len(rows) :]
        return rows, Wanted(wanted.question_id, rest, 0 if rows else wanted.fruitless + 1) if rest else None

    def _failed(self, error: RequestError, wanted: Wanted) -> None:
        self._failures += 1
        if self._hopeless:
            return
        self._told = str(error) if error.fatal or not self._told else self._told
        if self._failures <= TOLD:
            self._run.log(f"  no answer to {wanted.question_id}: {error}")
        kind = "outage" if error.outage else str(error)
        self._alike = self._alike + 1 if kind == self._last else 1
        self._last = kind
        if error.fatal or self._alike >= ENOUGH:
            self._hopeless = True
            self._endpoint.stop()


def usable(answer: dict, where: str) -> list[ImportedResponse]:
    """The choices of an answer that hold a text, in the server's order."""
    found = parse_rows([SourceRow(where, 0, answer)], lambda row: parse_choices(row, None, None, None))
    return [said for said in found if isinstance(said, ImportedResponse)]
