"""Chain-of-thought distillation in JAX: sample rationales, build corpora, train, evaluate, export, report.

    import scotd_jax as scotd

    task = scotd.load_task("world")
    teacher = scotd.load_pretrained("facebook/opt-6.7b", task)
    responses = scotd.filter_responses(scotd.sample(teacher, task.questions("train"), n=5))

`__all__` lists the public API, which `scotd_jax.api` and `scotd_jax.api_training` document. Names are imported on first
use, so that `import scotd_jax` does not load JAX.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "InputError": "scotd_jax.errors",
    "PromptedModel": "scotd_jax.api",
    "Question": "scotd_jax.records",
    "Response": "scotd_jax.records",
    "evaluate": "scotd_jax.api",
    "filter_responses": "scotd_jax.api",
    "load_pretrained": "scotd_jax.api",
    "load_task": "scotd_jax.api",
    "make_batches": "scotd_jax.api_training",
    "random_model": "scotd_jax.api",
    "sample": "scotd_jax.api",
    "save_pretrained": "scotd_jax.api",
    "score": "scotd_jax.api",
    "train": "scotd_jax.api_training",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
