"""Generation on a live server: requests the missing samples and writes responses as they arrive.

After a failed request only its own samples are missing: other requests continue, and the same command requests the
missing samples again. If all requests fail, the job stops early.
"""

import collections
import concurrent.futures
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

from etils import epath

from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.servers.client import RequestError, ServerClient
from scotd_jax.jobs.generation.servers.remote_model import RemoteModel
from scotd_jax.jobs.generation.writing import write_missing
from scotd_jax.rationales.importers.imported import ImportedResponse, SourceRow, parse_rows
from scotd_jax.rationales.importers.openai import parse_choices
from scotd_jax.records import Response
from scotd_jax.tasks.question_loader import QuestionsById

MAX_LOGGED_FAILURES = 5  # number of failures that are logged individually
MAX_EQUAL_FAILURES = 20  # consecutive failures of the same kind after which the job stops
FIRST_PAUSE = 1.0  # seconds before the first retry of a request


class SampleRequest(NamedTuple):
    """One request for samples of one question. `empty_replies` counts its earlier replies without any text."""

    question_id: str
    indices: tuple[int, ...]
    empty_replies: int = 0


def generate_on_server(
    context: RunContext, model: RemoteModel, questions: QuestionsById, folder: epath.Path
) -> list[epath.Path]:
    """Requests the samples that are missing in `folder` and returns the merged files.

    Raises:
      InputError: if samples are still missing at the end. All others are stored.
    """
    client = ServerClient(model.server, f"{model.where}.server", FIRST_PAUSE)

    def missing(done: Set[tuple[str, int]]) -> tuple[int, Iterator[list[Response]]]:
        requests = hosts.local_share(missing_requests(model, questions, done))
        rows = RequestPool(context, model, client, questions).responses(requests)
        return sum(len(request.indices) for request in requests), rows

    return write_missing(context, missing, folder, "responses", list(questions), shards=4, label=f"  {model.name}")


def missing_requests(model: RemoteModel, questions: QuestionsById, done: Set[tuple[str, int]]) -> list[SampleRequest]:
    """Returns the requests for all samples that are not `done`, question by question."""
    n = model.sampling.n
    # Greedy samples are equal, so several in one request are a waste, and some servers refuse this.
    size = 1 if model.sampling.temperature == 0 else model.server.n_per_request or n
    requests = []
    for id_ in questions:
        missing = tuple(i for i in range(n) if (id_, i) not in done)
        requests += [SampleRequest(id_, missing[i : i + size]) for i in range(0, len(missing), size)]
    return requests


class RequestPool:
    """Keeps several requests in flight. All decisions are made in the thread that iterates over `responses`."""

    def __init__(self, context: RunContext, model: RemoteModel, client: ServerClient, questions: QuestionsById):
        self._context, self._model, self._client, self._questions = context, model, client, questions
        self._failures = 0  # requests that failed after all retries
        self._equal_failures = 0  # consecutive failures of the kind `_last_failure`
        self._last_failure = ""  # kind of the last failure
        self._reported = ""  # the failure that the final message quotes
        self._is_stopped = False  # whether no further request is sent

    def responses(self, requests: Sequence[SampleRequest]) -> Iterator[list[Response]]:
        """Yields responses as they arrive.

        Raises:
          InputError: at the end, if some did not arrive.
        """
        waiting = collections.deque(requests)
        missing = sum(len(request.indices) for request in requests)
        concurrency = self._model.server.concurrency
        with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
            running: dict[concurrent.futures.Future, SampleRequest] = {}
            try:
                while running or (waiting and not self._is_stopped):
                    while waiting and not self._is_stopped and len(running) < concurrency:
                        request = waiting.popleft()
                        running[pool.submit(self._send, request)] = request
                    ready, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    rows = []
                    for future in ready:
                        new, rest = self._receive(future, running.pop(future))
                        rows += new
                        if rest is not None:
                            waiting.appendleft(rest)
                    if rows:
                        missing -= len(rows)
                        yield rows
            finally:
                self._client.stop()
        if missing:
            stopped = " and the rest was not requested" if self._is_stopped else ""
            raise InputError(
                f"{self._model.where}: {missing} samples are missing, {self._failures} requests failed{stopped}: "
                f"{self._reported}. The responses that arrived are stored: run the same command again to request only "
                "what is missing"
            )

    def _send(self, request: SampleRequest) -> list[ImportedResponse]:
        """Sends one request in a worker thread. Returns at most as many texts as requested."""
        question, task = self._questions[request.question_id]
        first, count = request.indices[0], len(request.indices)
        body = self._model.request_body(question, task, first, count)
        return usable_choices(self._client.post(body, f"{request.question_id}#{first}"), self._client.url)[:count]

    def _receive(
        self, future: concurrent.futures.Future, request: SampleRequest
    ) -> tuple[list[Response], SampleRequest | None]:
        """The responses of a finished request, and a request for its missing samples, if any."""
        try:
            generated = future.result()
            if not generated and request.empty_replies == self._model.server.retries:
                times = request.empty_replies + 1
                raise RequestError(f"{self._client.url}: replies contain no text (requested {times} times)")
        except RequestError as error:
            self._record_failure(error, request)
            return [], None
        question, task = self._questions[request.question_id]
        indexed = zip(generated, request.indices, strict=False)
        rows = [self._model.respond(text, question, task, index) for text, index in indexed]
        if rows:
            self._equal_failures = 0
        rest = request.indices[len(rows) :]
        if not rest:
            return rows, None
        return rows, SampleRequest(request.question_id, rest, 0 if rows else request.empty_replies + 1)

    def _record_failure(self, error: RequestError, request: SampleRequest) -> None:
        self._failures += 1
        if self._is_stopped:
            return
        if error.fatal or not self._reported:
            self._reported = str(error)
        if self._failures <= MAX_LOGGED_FAILURES:
            self._context.log(f"  no reply for {request.question_id}: {error}")
        kind = "outage" if error.outage else str(error)
        self._equal_failures = self._equal_failures + 1 if kind == self._last_failure else 1
        self._last_failure = kind
        if error.fatal or self._equal_failures >= MAX_EQUAL_FAILURES:
            self._is_stopped = True
            self._client.stop()


def usable_choices(reply: dict, where: str) -> list[ImportedResponse]:
    """Returns the choices of a reply that contain a text, in the server's order."""
    found = parse_rows([SourceRow(where, 0, reply)], lambda row: parse_choices(row, None, None, None))
    return [choice for choice in found if isinstance(choice, ImportedResponse)]
