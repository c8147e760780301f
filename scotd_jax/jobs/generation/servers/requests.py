"""What is sent to a model behind an OpenAI-compatible interface, over the network or in batch files.

Standard library only: settings are checked before anything heavy is loaded.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from scotd_jax.config import Rationales, Sampling, Server
from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.answer_extraction import THINK_MODES
from scotd_jax.records import Prompt

REMOTE = ("server", "batch")  # sources of rationales that are asked this way
PATHS = {"completions": "completions", "chat": "chat/completions"}
_OURS = ("model", "prompt", "messages", "n", "stream")  # extra fields that would undo what is asked for


def check_remote(spec: Rationales, where: str) -> None:
    """Raises InputError on settings that no request can be made with; a key in the wrong place is not repeated."""
    server, at = spec.server, f"{where}.server"
    if not server.model:
        raise InputError(f"{at}.model: needs the name by which the server knows its model")
    if spec.source == "server":
        parts = urlsplit(server.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise InputError(
                f"{at}.url: expected http(s)://HOST[:PORT]/v1, without user, password and query; for a key see key_env"
            )
    # Names are written to manifests, so a key that was put here must be told from a name.
    if server.key_env and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", server.key_env):
        raise InputError(
            f"{at}.key_env: expected the NAME of an environment variable in capitals, such as OPENAI_API_KEY, not a key"
        )
    for name, least in (("concurrency", 1), ("retries", 0), ("n_per_request", 0)):
        if getattr(server, name) < least:
            raise InputError(f"{at}.{name}: expected at least {least}, found {getattr(server, name)}")
    if not server.timeout > 0:
        raise InputError(f"{at}.timeout: expected seconds, more than 0, found {server.timeout}")
    if ours := sorted(set(server.extra_body) & set(_OURS)):
        raise InputError(f"{at}.extra_body.{ours[0]}: is set by the job itself, from prompt and sampling")
    if spec.sampling.n < 1:
        raise InputError(f"{where}.sampling.n: expected at least 1, found {spec.sampling.n}")
    check_think(spec, where)


def check_think(spec: Rationales, where: str) -> None:
    """Raises InputError on options of a model, here or elsewhere, that are not `think` with one of its values."""
    for key, value in spec.options.items():
        if key != "think" or value not in THINK_MODES:
            raise InputError(
                f"{where}.options.{key}: source {spec.source!r} has one option, 'think': one of "
                + ", ".join(THINK_MODES)
            )


def keyed(seed: int, name: str, number: int) -> int:
    """31 bits that depend on these three only; the largest seed that every server takes."""
    digest = hashlib.blake2b(f"{seed}\0{name}\0{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def request_body(
    server: Server, sampling: Sampling, prompt: Prompt, stops: Sequence[str], count: int, seed: int
) -> dict[str, Any]:
    """The body that asks for `count` samples. `server.extra_body` goes over it; None in it takes a field out."""
    body: dict[str, Any] = {
        "model": server.model,
        **({"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or None,  # no part of OpenAI's interface, but of every server's
        "n": count if count > 1 else None,  # some servers take no n at all
        "stop": list(stops) or None,
        "seed": seed,
    }
    return {key: value for key, value in (body | server.extra_body).items() if value is not None}
