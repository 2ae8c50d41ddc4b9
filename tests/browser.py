"""A real browser, driven over a pipe by the Chrome DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

__all__ = ["Browser", "find_chromium"]

_PATIENCE = 60  # seconds, for an answer


def find_chromium():
    """The path of Chromium or Chrome; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """A headless Chromium with one page. It asks no network but for what the page asks."""

    def __init__(self, chromium):
        to_browser, from_browser = os.pipe(), os.pipe()
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
        # The protocol's own file descriptors are 3 and 4.
        command = f'exec "$0" {options} --user-data-dir="$1" about:blank 3<&{to_browser[0]} 4>&{from_browser[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, chromium, self._folder.name],
            pass_fds=(to_browser[0], from_browser[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self._to, self._from = to_browser[1], from_browser[0]
        self._rest, self._n_sent, self._session = b"", 0, None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network", "Security"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.terminate()
        self._process.wait(_PATIENCE)
        os.close(self._to)
        os.close(self._from)
        self._folder.cleanup()

    def call(self, method, **params):
        """The result of a command of the protocol."""
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._n_sent:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def open(self, url, width, scheme="light"):
        """Show a page in a window of this width, in a light or a dark scheme, until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + _PATIENCE
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < deadline, "the page was not loaded"
            self.evaluate("0")

    def evaluate(self, expression):
        """The value of a script, which runs beside the page, past its security policy."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def complaints(self):
        """What the console has: errors, warnings, and what the page's policy has refused."""
        texts = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Log.entryAdded":
                texts.append(params["entry"]["text"])
            elif event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                texts.append(json.dumps(params))
        return texts

    def requests(self):
        """Addresses that were asked for, the page's own among them; data within an address is none."""
        sent = (event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [params["request"]["url"] for params in sent if not params["request"]["url"].startswith("data:")]

    def spoken(self):
        """What a screen reader is told, in its order: roles, names, and the levels of headings."""
        self.call("Accessibility.enable")
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        by_id = {node["nodeId"]: node for node in nodes}
        waiting, found = [nodes[0]["nodeId"]], []
        while waiting:
            node = by_id[waiting.pop()]
            waiting += [child for child in reversed(node.get("childIds", [])) if child in by_id]
            if not node["ignored"]:
                levels = [value["value"]["value"] for value in node.get("properties", []) if value["name"] == "level"]
                found.append((node["role"]["value"], node.get("name", {}).get("value", ""), *levels))
        return found

    def screenshot(self, path):
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def _next(self):
        """The next message."""
        while b"\0" not in self._rest:
            part = os.read(self._from, 2**20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
