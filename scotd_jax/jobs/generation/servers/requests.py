"""What is sent to a model behind an OpenAI-compatible interface, over the network or in batch files.

Standard library only: settings are checked before anything heavy is loaded.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from scotd_jax.config import Sampling, Server
from scotd_jax.records import Prompt

PATHS = {"completions": "completions", "chat": "chat/completions"}


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
