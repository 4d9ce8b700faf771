"""A real browser without a window, for the tests of pages."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Browser:
    """Chromium without a window, led through its pipe: DevTools protocol, JSON ended by NUL."""

    def __init__(self, folder):
        command, self.send = os.pipe()
        self.receive, answer = os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (command, answer)]
        shell = 'exec "$@" 3<&"$IN" 4>&"$OUT"'  # it reads 3 and writes 4
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "sh", CHROMIUM, *options, f"--user-data-dir={folder}"],
            pass_fds=ends,
            env={**os.environ, "IN": str(ends[0]), "OUT": str(ends[1])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (command, answer, *ends):
            os.close(fd)
        self.count, self.rest, self.events, self.session = 0, b"", [], {}
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters, **self.session}
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def read(self):
        while b"\0" not in self.rest:
            assert select.select([self.receive], [], [], 120)[0], "the browser does not answer"
            part = os.read(self.receive, 1 << 16)
            assert part, "the browser has gone"
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def seen(self, method):
        return [e["params"] for e in self.events if e.get("method") == method]

    def open(self, path, width=1280, height=800, dark=False, script=True):
        self.events.clear()
        self("Emulation.setDeviceMetricsOverride", width=width, height=height,
             deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Emulation.setScriptExecutionDisabled", value=not script)
        self("Page.navigate", url=path.as_uri())
        while not self.seen("Page.loadEventFired"):
            self.events.append(self.read())

    def js(self, expression):
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def soon(self, expression):
        """True as soon as the expression is: what the page does in an event that comes later."""
        end = time.monotonic() + 60
        while not self.js(expression) and time.monotonic() < end:
            time.sleep(0.02)
        return self.js(expression)

    def mouse(self, selector, *kinds):
        """The mouse to the middle of an element; pressed and released there, if asked for."""
        x, y = self.js(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mouseMoved", *kinds):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click(self, selector):
        self.mouse(selector, "mousePressed", "mouseReleased")

    def key(self, name):
        code = {
            "Escape": 27,
            "ArrowRight": 39,
            "ArrowDown": 40,
            "Enter": 13,
            "End": 35,
            "Home": 36,
            "ArrowLeft": 37,
        }[name]
        extra = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                 windowsVirtualKeyCode=code, **(extra if kind == "keyDown" else {}))  # fmt: skip

    def close(self):
        self.session = {}
        with contextlib.suppress(AssertionError):  # it is gone before it answers
            self("Browser.close")
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.send)
        os.close(self.receive)
