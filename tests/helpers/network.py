"""Ports for tests with several processes."""

import socket


def free_port() -> int:
    """Returns a port of this machine that no process uses."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
