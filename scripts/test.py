"""`make test` and `make lint`: every check of the project, with every server that is found.

Decides what runs where: the whole suite on SQLite, then what touches data again on PostgreSQL.
What a machine lacks is left out and named at the end; with PULSE_REQUIRE_ALL=1 that is a failure.
Servers are private ones on free ports, unless TEST_POSTGRES_URL or TEST_REDIS_URL name others.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT))

from pipelinepulse.tests import servers  # noqa: E402

ALWAYS = "not external and not soak and not bench"
# Browsers and process trees bring their own databases or do not care which one it is.
ON_POSTGRES = f"{ALWAYS} and not browser and not processes"
# One order and one set of examples for everybody, so that a red run is the change's own doing.
# TEST_SEED=random looks further: another order, other examples, each time.
SEED = os.environ.get("TEST_SEED", "20261120")
PROFILE = "searching" if SEED == "random" else "repeatable"
REQUIRE_ALL = os.environ.get("PULSE_REQUIRE_ALL") == "1"


@dataclass
class Report:
    """What was done, how long it took, what failed and what was left out."""

    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def step(self, name: str, command: list[str], **env: str) -> None:
        print(f"\n== {name}", flush=True)
        begun = time.monotonic()
        inherited = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
        status = subprocess.run(
            command, cwd=ROOT, env={**inherited, **env}, stdin=subprocess.DEVNULL
        ).returncode
        self.lines.append(
            f"{'ok    ' if status == 0 else 'FAILED'}  {time.monotonic() - begun:6.1f} s  {name}"
        )
        if status != 0:
            self.failed.append(name)

    def leave_out(self, what: str) -> None:
        self.left_out.append(what)

    def end(self) -> int:
        print("\n" + "=" * 72)
        print("\n".join(self.lines))
        for what in self.left_out:
            print(f"LEFT OUT          {what}")
        is_good = not self.failed and not (REQUIRE_ALL and self.left_out)
        missing = f", {len(self.left_out)} left out" if self.left_out else ", nothing left out"
        print(f"RESULT  {'passed' if is_good else 'FAILED'}{missing}")
        return 0 if is_good else 1


def tool(name: str) -> str:
    return str(BIN / name)


def lint(report: Report) -> None:
    report.step("style", [tool("ruff"), "check", "."])
    report.step("format", [tool("ruff"), "format", "--check", "."])
    report.step("types", [tool("mypy")])
    report.step("import contract", [tool("lint-imports")])
    report.step("templates", [tool("djlint"), "templates", "--lint", "--quiet"])
    report.step(
        "migrations are complete",
        [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"],
    )


def suite(report: Report) -> None:
    with contextlib.ExitStack() as stack:
        env = {}
        for name, private in (
            ("TEST_POSTGRES_URL", servers.private_postgres),
            ("TEST_REDIS_URL", servers.private_redis),
        ):
            if url := _server(name, private, stack, report):
                env[name] = url
        if not (shutil.which("chromium") or shutil.which("chromium-browser")):
            report.leave_out("tests in a browser: no chromium on PATH")
        # Two at once: more than the cores of a small machine buys nothing.
        pytest = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup"]
        pytest += [] if SEED == "random" else [f"--randomly-seed={SEED}"]
        pytest += [f"--hypothesis-profile={PROFILE}"]
        report.step("suite on SQLite", [*pytest, "-m", ALWAYS], **env)
        if "TEST_POSTGRES_URL" in env:
            report.step(
                "suite on PostgreSQL",
                [*pytest, "-m", ON_POSTGRES],
                **env,
                DATABASE_URL=env["TEST_POSTGRES_URL"],
            )


def _server(
    name: str,
    private: Callable[[], AbstractContextManager[str]],
    stack: contextlib.ExitStack,
    report: Report,
) -> str | None:
    if given := os.environ.get(name):
        return given
    try:
        return stack.enter_context(private())
    except servers.NotInstalled as missing:
        report.leave_out(f"tests with a server: {missing} is not installed ({name} is not set)")
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lint", action="store_true", help="the quick checks alone")
    options = parser.parse_args()
    report = Report()
    lint(report)
    if not options.lint:
        suite(report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
