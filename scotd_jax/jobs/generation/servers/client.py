"""A client for OpenAI-compatible servers: a request goes out until its answer is there, whatever lies between.

Retried with growing pauses: timeouts, lost connections, 408, 409, 425, 429, 5xx, and answers that are no JSON or have
no choices. Not retried: whatever the server refuses for a reason that will stay. A pause that the server asks for
(Retry-After) holds all requests, not only the one that was told.

The key is read from the environment when a client is made, sent in one header, never to another host, and taken out
of every message.
"""

import email.utils
import http.client
import json
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from scotd_jax.config import Server
from scotd_jax.errors import InputError
from scotd_jax.jobs.generation.servers.requests import PATHS, keyed

LONGEST = 60.0  # seconds between two tries, unless the server asks for more
_AGAIN = (408, 409, 425, 429)
_HOPELESS = (401, 402, 403, 404, 405, 407)  # for every other request as well


class RequestError(InputError):
    """A request that failed for good. `fatal`: every other one would too. `outage`: it was retried to the end."""

    def __init__(self, message: str, *, fatal: bool = False, outage: bool = False):
        super().__init__(message)
        self.fatal, self.outage = fatal, outage


class _AgainError(Exception):
    """A try that failed; another one may do better after `wait` seconds."""

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would lose its body, and take the key to another host."""

    def redirect_request(self, *request: object) -> None:
        return None


class Endpoint:
    """One server. `post` may be called from many threads. `pause` is the first wait between two tries, in seconds.

    Raises InputError where the key is not in the environment.
    """

    def __init__(self, server: Server, where: str, pause: float = 1.0):
        self.url = f"{server.url.rstrip('/')}/{PATHS[server.kind]}"
        self._timeout, self._retries, self._pause = server.timeout, server.retries, pause
        self._key = _key(server.key_env, where)
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._stopped = threading.Event()
        self._not_before = 0.0  # monotonic seconds

    def post(self, body: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The answer, a JSON object with a list of choices. `name` spreads the pauses of requests.

        Raises RequestError, which is an InputError: URL, status and the server's words.
        """
        data = json.dumps(body).encode()
        attempt = 0
        while True:
            self._wait(max(0.0, self._not_before - time.monotonic()))
            try:
                return self._once(data)
            except _AgainError as error:
                if attempt == self._retries:
                    raise RequestError(f"{self.url}: {error} (asked {attempt + 1} times)", outage=True) from None
                if error.wait:
                    self._not_before = max(self._not_before, time.monotonic() + error.wait)
                spread = 0.5 + keyed(attempt, name, 0) / 2**32
                self._wait(error.wait + spread * min(LONGEST, self._pause * 2**attempt))
                attempt += 1

    def stop(self) -> None:
        """Ends all pauses: whoever waits gives up. Answers that are under way still come."""
        self._stopped.set()

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise RequestError(f"{self.url}: given up, since others failed", outage=True)

    def _once(self, data: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "scotd_jax"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            request = urllib.request.Request(self.url, data, headers, method="POST")
            with self._opener.open(request, timeout=self._timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            message = self._clean(f"{type(reason).__name__}: {reason}")
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise RequestError(f"{self.url}: {message}", fatal=True) from None
            raise _AgainError(message) from None
        try:
            body = json.loads(content)
        except ValueError as error:
            raise _AgainError(self._clean(f"the answer is no JSON ({error}): {content[:100]!r}")) from None
        if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
            raise _AgainError(self._clean(f"expected a JSON object with choices, found {content[:200]!r}"))
        return body

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            try:
                content = error.read(1 << 16)
            except (OSError, http.client.HTTPException):
                content = b""
        message = self._clean(f"status {error.code} ({error.reason}): {_words(content)}")
        if error.code in _AGAIN or error.code >= 500:
            return _AgainError(message, _retry_after(error.headers.get("Retry-After")))
        return RequestError(f"{self.url}: {message}", fatal=error.code in _HOPELESS or error.code < 400)

    def _clean(self, message: str) -> str:
        return message.replace(self._key, "[key]") if self._key else message


def _key(variable: str, where: str) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise InputError(f"{where}.key_env: the environment variable {variable} is not set; it should hold the key")
    if not (key.isascii() and key.isprintable()):  # http.client would say the header, with the key in it
        raise InputError(f"{where}.key_env: what the environment variable {variable} holds is no key")
    return key


def _words(content: bytes) -> str:
    """What the server says of an error: {"error": {"message"}}, {"error"}, {"message"}, {"detail"}, or anything."""
    text = content.decode(errors="replace").strip()
    try:
        said = json.loads(text)
    except ValueError:
        return text[:300]
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return (said if isinstance(said, str) else json.dumps(said))[:300]


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header, which holds seconds or a date; 0 without one, and never more than an hour."""
    value = (value or "").strip()
    if value.isdecimal():
        return min(3600.0, float(value))
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return min(3600.0, max(0.0, date.timestamp() - time.time()))
