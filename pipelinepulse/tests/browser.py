"""A browser that tells what went wrong in its console."""

import shutil
from typing import Any

FLAGS = [
    "--no-sandbox",  # its sandbox refuses root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Answers that a page asked for and shows; Chromium reports each as an error of the console.
EXPECTED_STATUS = ("403", "404", "409", "422", "503")


def chromium() -> str | None:
    """The Chromium of the machine; none is ever downloaded."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def watch(context: Any) -> list[str]:
    """What from now on goes wrong on any page of the context: console errors (violations of the
    content security policy are such), and script errors that nobody caught. The list grows."""
    problems: list[str] = []

    def on_console(message: Any) -> None:
        expected = any(f"status of {status}" in message.text for status in EXPECTED_STATUS)
        if message.type == "error" and not expected:
            problems.append(message.text)

    context.on("console", on_console)
    context.on("weberror", lambda event: problems.append(str(event.error)))
    return problems
