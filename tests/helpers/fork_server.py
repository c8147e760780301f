"""Starts processes in a tenth of a second, as forks of one process that has imported the libraries and the package.

A new interpreter spends five seconds of CPU time on imports. The fork server of the standard library does so once for
all processes that a test process starts. It initializes no device, so that every fork can initialize its own.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def start_process(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Starts a process that calls `target`, a function of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preloaded"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process
