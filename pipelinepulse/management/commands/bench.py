"""`manage.py bench`: speed and memory as ratios against a floor measured in the same run.

Exit 0 if every goal was met, 1 if one was missed. Takes minutes; changes nothing outside a
temporary folder (and, with --postgres, databases of its own that it drops).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from pipelinepulse.benchmarks.kit import Bench, Figure, new_folder

BENCHMARKS = ("full_sync", "dashboard", "o2r", "webhook", "pages", "delta", "write_back")
# Half an hour and several GB of disk: only when asked for by name.
LONG = ("million", "delta_million")


class Command(BaseCommand):
    help = "Measure against bare loops: full sync, memory, dashboard."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", help=f"some of: {', '.join(BENCHMARKS + LONG)}")
        parser.add_argument("--deals", type=int, default=100_000)
        parser.add_argument(
            "--postgres",
            default=os.environ.get("BENCH_POSTGRES_URL", ""),
            metavar="URL",
            help="a PostgreSQL database that may create others; SQLite without it",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        names = options["names"] or BENCHMARKS
        unknown = set(names) - {*BENCHMARKS, *LONG}
        if unknown:
            self.stderr.write(f"No such benchmark: {', '.join(sorted(unknown))}.")
            sys.exit(2)
        bench = Bench(new_folder(), options["deals"], options["postgres"])
        self.stdout.write(f"on {'PostgreSQL' if bench.is_postgres else 'SQLite'}")
        figures: list[Figure] = []
        try:
            for name in names:
                for figure in import_module(f"pipelinepulse.benchmarks.{name}").run(bench):
                    figures.append(figure)
                    self._tell(figure)
        finally:
            bench.clean()
        missed = [figure for figure in figures if not figure.is_met]
        self.stdout.write(f"{len(figures) - len(missed)} goals met, {len(missed)} missed")
        if missed:
            sys.exit(1)

    def _tell(self, figure: Figure) -> None:
        mark = "met   " if figure.is_met else "MISSED"
        bound = "at least" if figure.is_minimum else "at most"
        self.stdout.write(
            f"{mark} {figure.value:6.2f}  {bound} {figure.goal:g}  {figure.name} ({figure.detail})"
        )
        self.stdout.flush()
