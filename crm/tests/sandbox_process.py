"""Starts the Zoho sandbox as its own process for tests, and stops it.

Use as a fixture's body: `with running_sandbox(tmp_path, deals=50) as sandbox: yield sandbox`.
"""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

ROOT = Path(__file__).resolve().parents[2]
START_S = 60

CLIENT_ID = "1000.SANDBOX"
CLIENT_SECRET = "sandbox-secret"
REFRESH_TOKEN = "1000.sandbox.refresh"

_opener = build_opener(ProxyHandler({}))


class ControlRefused(Exception):
    """The sandbox did not understand a control request; its reason."""


@dataclass
class Sandbox:
    """A running sandbox: where it listens, its hidden hand, its process."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    db: Path
    log: Path

    def control(self, do: str, **options: Any) -> Any:
        """Carry out one control command (see crm/sandbox/control.py); its JSON result."""
        request = Request(  # noqa: S310 (the URL is our own, on loopback)
            f"{self.url}/_control",
            json.dumps({"do": do, **options}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with _opener.open(request, timeout=120) as response:
                return json.load(response)
        except HTTPError as error:
            raise ControlRefused(error.read().decode()) from error

    def knock(self, times: int) -> None:
        """So many requests that ask nothing of the CRM: hooks count them."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        for _ in range(times):
            line.request("GET", "/oauth/serverinfo")
            line.getresponse().read()
        line.close()

    def stop(self) -> int:
        """End it in the orderly way; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(10)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(10)


def start_sandbox(tmp_path: Path, **options: Any) -> Sandbox:
    """Start one and wait until it listens.

    Options are those of the command line with underscores: `deals=50, latency_ms=5,
    csv=folder, life=60`. A free port, `--control` and `tmp_path/sandbox.db` unless given.
    RuntimeError with its log if it does not start.
    """
    settings = {"port": 0, "db": tmp_path / "sandbox.db", "control": True, "quiet": True}
    if "csv" not in options:
        settings["deals"] = 50
    settings.update(options)
    port_file = tmp_path / "sandbox.port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "crm.sandbox", "--port-file", str(port_file)]
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            command.append(flag)
        elif value is not False and value is not None:
            command += [flag, str(value)]
    log = tmp_path / "sandbox.log"
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    deadline = time.monotonic() + START_S
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"the sandbox did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)
    port = int(port_file.read_text())
    return Sandbox(f"http://127.0.0.1:{port}", port, process, Path(settings["db"]), log)


@contextmanager
def running_sandbox(tmp_path: Path, **options: Any) -> Iterator[Sandbox]:
    """A sandbox for the length of a with block."""
    sandbox = start_sandbox(tmp_path, **options)
    try:
        yield sandbox
    finally:
        sandbox.stop()
