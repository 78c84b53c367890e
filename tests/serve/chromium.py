"""A real browser, driven over its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--remote-debugging-port=0"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
KEYS = {"ArrowDown": 40, "ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38, "Tab": 9, "Delete": 46, "Escape": 27}


class Tab:
    """One page."""

    def __init__(self, socket: ClientConnection, downloads: Path) -> None:
        self.downloads = downloads
        self.complaints: list[str] = []
        self._socket, self._numbers = socket, itertools.count(1)
        for domain in ("Page", "Runtime", "DOM", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        """What the browser's console says: scripts that failed, policies that were broken."""
        match event:
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.complaints.append(str(details.get("exception", details).get("description", details)))
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error", "source": source, "text": text}}}:
                if source != "network":  # answers that are no success are expected, and told on the page
                    self.complaints.append(text)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && document.querySelector('#model')?.textContent !== ''")

    def js(self, expression: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 15) -> None:
        until = time.monotonic() + seconds
        while not self.js(f"Boolean({condition})"):
            assert time.monotonic() < until, f"never true: {condition}\n{self.complaints}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        return self.js(f"document.querySelector({selector!r}).textContent")

    def upload(self, *paths: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path) for path in paths], nodeId=node)

    def middle(self, selector: str) -> tuple[float, float]:
        x, y = self.js(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'nearest'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        return x, y

    def mouse(self, kind: str, x: float, y: float, **more: object) -> None:
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def click(self, selector: str) -> None:
        self.click_at(*self.middle(selector))

    def click_at(self, x: float, y: float) -> None:
        for kind in ("Pressed", "Released"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def press(self, key: str, *, shift: bool = False) -> None:
        common = {"key": key, "modifiers": 8 if shift else 0, "windowsVirtualKeyCode": KEYS.get(key, 0)}
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def slide(self, name: str, value: float) -> None:
        element = f"document.getElementById({name!r})"
        self.js(f"{element}.value = {value}; {element}.dispatchEvent(new Event('input'))")

    def write(self, name: str, value: str) -> None:
        """Into a field, to its end."""
        element = f"document.getElementById({name!r})"
        self.js(f"{element}.value = {json.dumps(value)}")
        self.js(f"for (const kind of ['input', 'change']) {element}.dispatchEvent(new Event(kind))")

    def downloaded(self, button: str, *, seconds: float = 15) -> Path:
        """The file that a click on a button brings."""
        for earlier in self.downloads.iterdir():
            earlier.unlink()
        until = time.monotonic() + seconds
        self.click(button)
        while True:
            new = list(self.downloads.iterdir())
            if len(new) == 1 and not new[0].name.endswith(".crdownload"):
                return new[0]
            assert time.monotonic() < until, f"{button}: no file came; {self.complaints}"
            self.js("0")
            time.sleep(0.02)

    def screen(self, width: int, height: int, *, ratio: float = 1, phone: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, **features: str) -> None:
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def screenshot(self, path: Path | None = None) -> bytes:
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data


def executable() -> str:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    assert found, "these tests need Chromium: apt-get install chromium"
    return found


@contextmanager
def browser() -> Iterator[Tab]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home, downloads = Path(folder) / "home", Path(folder) / "downloads"
        downloads.mkdir()
        command = [executable(), *FLAGS, f"--user-data-dir={home}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(home, process), max_size=None) as socket:
                yield Tab(socket, downloads)
        finally:
            process.terminate()
            process.wait(10)


def _address(home: Path, process: subprocess.Popen[bytes]) -> str:
    """Of the first page; the browser writes its port into its home."""
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        try:
            port = (home / "DevToolsActivePort").read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        except (OSError, IndexError, json.JSONDecodeError):
            pass
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")
