"""A headless Chromium for tests of pages, driven by the Chrome DevTools Protocol over a pipe, without a library."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BINARY = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
TIMEOUT = 60  # seconds for one command, on a machine that does other work too
_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
)


class Chromium:
    """A browser with one tab. Use as a context manager.

    Attributes:
      requests: URLs of all requests of the tab.
      errors: exceptions, errors on the console, and reports of the content security policy.
    """

    def __init__(self, folder: Path) -> None:
        """Starts the browser with its profile and downloads in `folder`."""
        assert BINARY is not None
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        self._ids, self._session, self._buffer, self._events = itertools.count(1), "", b"", set[str]()
        from_us, self._to_browser = os.pipe()
        self._from_browser, to_us = os.pipe()
        # Chromium reads commands from file descriptor 3 and writes to 4.
        command = [BINARY, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "bash", *command],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)

    def __enter__(self) -> "Chromium":
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to_browser)
        os.close(self._from_browser)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        message: dict[str, Any] = {"id": next(self._ids), "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != message["id"]:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Opens a file in a window of this size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._receive()

    def js(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, id_: str) -> str:
        """Returns the visible text of an element."""
        return self.js(f"document.getElementById({id_!r}).innerText")

    def press(self, *keys: str) -> None:
        """Presses keys: characters, or names such as Enter and ArrowLeft."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            # Controls react to the code of the space bar only.
            fields = {"key": key} | ({"windowsVirtualKeyCode": 32} if key == " " else {})
            self.call("Input.dispatchKeyEvent", type="keyDown", **fields, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def type(self, text: str) -> None:
        """Types a text into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """Writes a PNG of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def wait_for_download(self) -> Path:
        """Returns the only downloaded file."""
        deadline = time.monotonic() + TIMEOUT
        while not (files := [f for f in self.downloads.iterdir() if f.suffix == ".json"]):
            assert time.monotonic() < deadline, "no download"
            time.sleep(0.05)
        [file] = files
        return file

    def _receive(self) -> dict[str, Any]:
        """Returns the next message; records requests and errors."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from_browser], [], [], TIMEOUT)
            assert ready, f"no answer of Chromium in {TIMEOUT} s"
            data = os.read(self._from_browser, 1 << 16)
            assert data, "Chromium has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method, params = message.get("method", ""), message.get("params", {})
        self._events.add(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        is_error = method == "Runtime.exceptionThrown"
        is_error |= method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning")
        is_error |= method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert")
        if is_error:
            self.errors.append(line.decode())
        return message
