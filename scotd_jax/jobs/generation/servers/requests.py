"""Request bodies for OpenAI-compatible interfaces, for live requests and batch files."""

import hashlib
from collections.abc import Sequence
from typing import Any

from scotd_jax.config import Sampling, Server
from scotd_jax.records import Prompt

PATHS = {"completions": "completions", "chat": "chat/completions"}


def keyed_seed(seed: int, name: str, number: int) -> int:
    """Returns a hash of the arguments as a seed of 31 bits, since some servers refuse larger ones."""
    digest = hashlib.blake2b(f"{seed}\0{name}\0{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def request_body(
    server: Server, sampling: Sampling, prompt: Prompt, stops: Sequence[str], count: int, seed: int
) -> dict[str, Any]:
    """Returns the body of a request for `count` samples.

    Fields of `server.extra_body` replace fields of the body; None removes a field.
    """
    body: dict[str, Any] = {
        "model": server.model,
        **({"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or None,  # an extension of OpenAI's interface that open-source servers share
        "n": count if count > 1 else None,  # some servers do not accept n
        "stop": list(stops) or None,
        "seed": seed,
    }
    return {key: value for key, value in (body | server.extra_body).items() if value is not None}
