"""A local server with the OpenAI API, in a thread; a script determines its answers and failures."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body
# Maps the number and body of a request to an Answer, or to None (normal answer), "close" (no answer) or "cut" (half).
Script = Callable[[int, dict], Any]


class FakeServer(http.server.ThreadingHTTPServer):
    """Records the bodies, paths, API keys and times of all requests in order."""

    daemon_threads = True

    def __init__(self, script: Script = lambda number, body: None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.lock = script, threading.Lock()
        self.bodies: list[dict] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.in_flight = self.max_in_flight = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *about: object) -> None:
        """Ignores clients that disconnect early, as some tests do."""


def completion(body: dict, count: int | None = None, **choice: Any) -> bytes:
    """Returns a body with `count` choices (None: the requested number), each with the seed and its index as text."""
    texts = [f"Seed {body.get('seed')} choice {i}. So the answer is: (a)" for i in range(count or body.get("n", 1))]
    if "messages" in body:
        choices = [{"message": {"role": "assistant", "content": text}} for text in texts]
    else:
        choices = [{"text": text} for text in texts]
    choices = [
        {"index": i, "finish_reason": "stop"} | choice_fields | choice for i, choice_fields in enumerate(choices)
    ]
    return json.dumps({"id": "r", "model": "served", "choices": choices, "usage": {"completion_tokens": 7}}).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        fake: FakeServer = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake.lock:
            number = len(fake.bodies)
            fake.bodies.append(body)
            fake.paths.append(self.path)
            fake.keys.append(self.headers["Authorization"])
            fake.times.append(time.monotonic())
            fake.in_flight += 1
            fake.max_in_flight = max(fake.max_in_flight, fake.in_flight)
        answer = fake.script(number, body)
        with fake.lock:  # before the client gets the answer and sends the next request
            fake.in_flight -= 1
        self._answer(answer, body)

    def _answer(self, answer: Any, body: dict) -> None:
        self.close_connection = True
        if answer == "close":
            return
        status, headers, content = (200, {}, completion(body)) if answer in (None, "cut") else answer
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if answer == "cut" else content)

    def log_message(self, *parts: object) -> None:
        """Suppresses the log."""


@contextlib.contextmanager
def serving(script: Script = lambda number, body: None) -> Iterator[FakeServer]:
    """Runs a server for the duration of a `with` block."""
    with FakeServer(script) as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield fake
        finally:
            fake.shutdown()
            thread.join()


def error(status: int, message: str = "no", **headers: str) -> Answer:
    """Returns an answer with an error body."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return status, named, json.dumps({"error": {"message": message}}).encode()
