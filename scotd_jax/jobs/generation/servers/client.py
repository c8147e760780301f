"""A client for OpenAI-compatible servers that retries failed requests.

Retries, with growing pauses: timeouts, lost connections, statuses 408, 409, 425, 429 and 5xx, and replies that are not
JSON or have no choices. Other statuses are permanent and not retried. A pause that the server requests (Retry-After)
delays all requests, not only the one that received it.

The client reads the API key from the environment once, sends it in one header and never to another host, and removes it
from every reply, before anything is read from it or quoted. Replies are bounded in size and time.
"""

import email.utils
import http.client
import io
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
from scotd_jax.jobs.generation.servers.requests import PATHS, keyed_seed
from scotd_jax.strict_json import loads

MAX_PAUSE = 60.0  # seconds between two attempts, unless the server requests more
MAX_RETRY_AFTER = 3600.0  # seconds: the longest pause that a server may request
MAX_REPLY_BYTES = 2**28  # 30 responses of 30,000 tokens with their log-probabilities have a third of it
_RETRIED = (408, 409, 425, 429)
_FATAL = (401, 402, 403, 404, 405, 407)  # statuses that all other requests would also receive


class RequestError(InputError):
    """A request that failed permanently.

    Attributes:
      fatal: whether every other request would fail in the same way.
      outage: whether all retries failed, or were abandoned.
    """

    def __init__(self, message: str, *, fatal: bool = False, outage: bool = False):
        super().__init__(message)
        self.fatal, self.outage = fatal, outage


class _RetryableError(Exception):
    """An attempt that failed; another may succeed after `wait` seconds."""

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would lose its body and take the key to another host."""

    def redirect_request(self, *request: object) -> None:  # pyrefly: ignore[bad-override]
        return None


class ServerClient:
    """Client of one server. `post` may be called from many threads."""

    def __init__(self, server: Server, where: str, pause: float = 1.0):
        """Reads the key from the environment.

        Args:
          server: the server's settings.
          where: their config path, for messages.
          pause: seconds before the first retry; it doubles with each.

        Raises:
          InputError: if the key is not in the environment.
        """
        self.url = f"{server.url.rstrip('/')}/{PATHS[server.kind]}"
        self._timeout, self._retries, self._pause = server.timeout, server.retries, pause
        self._key = _read_key(server.key_env, where)
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._stopped = threading.Event()
        self._not_before = 0.0  # time.monotonic() before which no request is sent

    def post(self, body: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Sends a request and returns the reply, a JSON object with a list of choices.

        Args:
          body: the request.
          name: name of the request, which seeds the jitter of its pauses.

        Raises:
          RequestError: if the request fails; the message contains URL, status and the server's message.
        """
        data = json.dumps(body).encode()
        attempt = 0
        while True:
            self._wait(max(0.0, self._not_before - time.monotonic()))
            try:
                return self._attempt(data)
            except _RetryableError as error:
                if attempt == self._retries:
                    raise RequestError(f"{self.url}: {error} (sent {attempt + 1} times)", outage=True) from None
                if error.wait:
                    self._not_before = max(self._not_before, time.monotonic() + error.wait)
                jitter = 0.5 + keyed_seed(attempt, name, 0) / 2**32
                self._wait(error.wait + jitter * min(MAX_PAUSE, self._pause * 2**attempt))
                attempt += 1

    def stop(self) -> None:
        """Ends all pauses: requests that wait for a retry fail. Requests that are in flight still complete."""
        self._stopped.set()

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise RequestError(f"{self.url}: abandoned, since other requests failed", outage=True)

    def _attempt(self, data: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "scotd_jax"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            request = urllib.request.Request(self.url, data, headers, method="POST")
            with self._opener.open(request, timeout=self._timeout) as response:
                content = self._read(response)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            message = self._without_key(f"{type(reason).__name__}: {reason}")
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise RequestError(f"{self.url}: {message}", fatal=True) from None
            raise _RetryableError(message) from None
        try:
            body = loads(content)
        except ValueError as error:
            raise _RetryableError(f"the reply is not JSON ({error}): {content[:100]!r}") from None
        if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
            raise _RetryableError(f"expected a JSON object with choices, found {content[:200]!r}")
        return body

    def _read(self, response: io.BufferedIOBase) -> bytes:
        """Returns the body of a reply, without the key.

        Raises:
          RequestError: if it is larger than MAX_REPLY_BYTES.
          _RetryableError: if it has not ended when the timeout has passed since it began.
        """
        content, end = bytearray(), time.monotonic() + self._timeout
        while block := response.read1(2**20):
            content += block
            if len(content) > MAX_REPLY_BYTES:
                raise RequestError(f"{self.url}: the reply has more than {MAX_REPLY_BYTES >> 20} MiB")
            if time.monotonic() > end:
                raise _RetryableError(f"the reply has not ended {self._timeout:g} s after it began")
        return bytes(content).replace(self._key.encode(), b"[key]") if self._key else bytes(content)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """The exception for a reply with an error status: retryable or permanent."""
        with error:
            try:
                content = self._without_key(error.read(1 << 16).decode(errors="replace"))
            except (OSError, http.client.HTTPException):
                content = ""
        message = self._without_key(f"status {error.code} ({error.reason}): {_error_message(content)}")
        if error.code in _RETRIED or error.code >= 500:
            return _RetryableError(message, _retry_after(error.headers.get("Retry-After")))
        return RequestError(f"{self.url}: {message}", fatal=error.code in _FATAL or error.code < 400)

    def _without_key(self, message: str) -> str:
        return message.replace(self._key, "[key]") if self._key else message


def _read_key(variable: str, where: str) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise InputError(f"{where}.key_env: the environment variable {variable} is not set; set it to the key")
    if not (key.isascii() and key.isprintable()):  # else http.client raises with the key in its message
        raise InputError(
            f"{where}.key_env: the environment variable {variable} contains characters that no key has; set it again"
        )
    return key


def _error_message(content: str) -> str:
    """The server's message: {"error": {"message"}}, {"error"}, {"message"} or {"detail"}, else the whole reply."""
    text = content.strip()
    try:
        message = loads(text)
    except ValueError:
        return text[:300]
    for key in ("error", "message", "detail"):
        if isinstance(message, dict) and message.get(key):
            message = message[key]
    return (message if isinstance(message, str) else json.dumps(message))[:300]


def _retry_after(value: str | None) -> float:
    """Seconds to wait by a Retry-After header, which contains seconds or a date; 0 without one."""
    value = (value or "").strip()
    if value.isdecimal():
        return min(MAX_RETRY_AFTER, float(value))
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return min(MAX_RETRY_AFTER, max(0.0, date.timestamp() - time.time()))
