"""A headless Chromium that says what a page did: its console, its requests, its layout, its looks.

Driven over a pipe with Chromium's own protocol, so that no driver program has to fit its version.
"""

import base64
import fcntl
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)
DRAWN = """
new Promise((done) => {
  const root = document.documentElement;
  const look = () => { if ("drawn" in root.dataset) done(); };
  new MutationObserver(look).observe(root, { attributes: true });
  look();
})
"""
IDLE = "new Promise((done) => requestAnimationFrame(() => requestIdleCallback(() => done())))"


@dataclass
class Visit:
    """What happened while a page was open.

    Attributes:
        complaints: What the console said: errors, warnings, exceptions, refused scripts.
        requests: The addresses that were asked for, but for the page itself and `data:`.
        facts: What was measured on the page.
        screenshot: The whole page as a PNG.
    """

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    screenshot: bytes = b""


class Browser:
    """A running browser with one page."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._waiting = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def visit(self, page: Path, *, width: int, measure: dict[str, str]) -> Visit:
        """Opens a page and waits until it has drawn its charts.

        Args:
            page: The file.
            width: Of the window, in pixels.
            measure: Name → JavaScript to evaluate on the page.
        """
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                   deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        self._events.clear()
        self._call("Page.navigate", url=page.as_uri())
        while all(event["method"] != "Page.loadEventFired" for event in self._events):
            self._events.append(self._receive())
        self.evaluate(DRAWN)
        self.evaluate(IDLE)  # for what would come late
        facts = {name: self.evaluate(script) for name, script in measure.items()}
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        found = Visit(facts=facts, screenshot=base64.b64decode(shot["data"]))
        for event in self._events:
            _note(event["method"], event["params"], page, found)
        return found

    def evaluate(self, script: str) -> Any:
        """The value of an expression on the page, or of what it promises."""
        done = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        return done["result"].get("value")

    def close(self) -> None:
        """Ends the browser."""
        self._send("Browser.close", {})

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if hasattr(self, "_session") and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        return self._number

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._send(method, params)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            if "method" in message:
                self._events.append(message)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            part = os.read(self._reader, 1 << 20)
            assert part, "The browser has ended."
            self._waiting += part
        line, _, self._waiting = self._waiting.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


def _note(method: str, params: dict[str, Any], page: Path, found: Visit) -> None:
    if method == "Runtime.exceptionThrown":
        details = params["exceptionDetails"]
        found.complaints.append(details.get("exception", {}).get("description", details["text"]))
    elif method == "Runtime.consoleAPICalled":
        said = " ".join(str(item.get("value", item.get("description"))) for item in params["args"])
        found.complaints.append(f"{params['type']}: {said}")
    elif method == "Log.entryAdded":
        found.complaints.append(f"{params['entry']['level']}: {params['entry']['text']}")
    elif method == "Network.requestWillBeSent":
        address = params["request"]["url"]
        if address != page.as_uri() and not address.startswith("data:"):
            found.requests.append(address)


@contextmanager
def running(program: str) -> Iterator[Browser]:
    """Starts a browser with a profile of its own, and ends it."""
    orders, answers = os.pipe(), os.pipe()
    # Above those that the shell below assigns, so that it overwrites neither.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (orders[0], answers[1])]
    for end in (orders[0], answers[1]):
        os.close(end)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        script = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
        process = subprocess.Popen(
            ["bash", "-c", script, program, *flags],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in ends:
            os.close(end)
        try:
            browser = Browser(answers[0], orders[1])
            yield browser
            browser.close()
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(answers[0])
            os.close(orders[1])
