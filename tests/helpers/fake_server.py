"""A server that speaks OpenAI's interface and fails as it is told to; in a thread, on loopback."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body
Script = Callable[[int, dict], Any]  # number of the request and its body -> Answer, None (as usual), or "close", "cut"


class Fake(http.server.ThreadingHTTPServer):
    """`bodies`, `paths`, `keys` and `times` of all requests so far, in the order in which they came."""

    daemon_threads = True

    def __init__(self, script: Script = lambda number, body: None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.lock = script, threading.Lock()
        self.bodies: list[dict] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *about: object) -> None:
        """Clients of these tests go away in the middle."""


def says(body: dict, count: int | None = None, **choice: Any) -> bytes:
    """A body with `count` choices (None: as many as were asked for), each with its seed and number as its text."""
    texts = [f"Seed {body.get('seed')} choice {i}. So the answer is: (a)" for i in range(count or body.get("n", 1))]
    if "messages" in body:
        made = [{"message": {"role": "assistant", "content": text}} for text in texts]
    else:
        made = [{"text": text} for text in texts]
    made = [{"index": i, "finish_reason": "stop"} | each | choice for i, each in enumerate(made)]
    return json.dumps({"id": "r", "model": "served", "choices": made, "usage": {"completion_tokens": 7}}).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        fake: Fake = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake.lock:
            number = len(fake.bodies)
            fake.bodies.append(body)
            fake.paths.append(self.path)
            fake.keys.append(self.headers["Authorization"])
            fake.times.append(time.monotonic())
            fake.at_once += 1
            fake.most_at_once = max(fake.most_at_once, fake.at_once)
        answer = fake.script(number, body)
        with fake.lock:  # before the client has its answer, and asks on
            fake.at_once -= 1
        self._answer(answer, body)

    def _answer(self, answer: Any, body: dict) -> None:
        self.close_connection = True
        if answer == "close":
            return
        status, headers, content = (200, {}, says(body)) if answer in (None, "cut") else answer
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if answer == "cut" else content)

    def log_message(self, *parts: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving(script: Script = lambda number, body: None) -> Iterator[Fake]:
    with Fake(script) as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield fake
        finally:
            fake.shutdown()
            thread.join()


def error(status: int, message: str = "no", **headers: str) -> Answer:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return status, named, json.dumps({"error": {"message": message}}).encode()
