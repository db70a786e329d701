"""`python -m crm.sandbox`: seed or open the database, listen, say so, serve until told to stop."""

import argparse
import datetime as dt
import os
import signal
import sqlite3
import sys
from pathlib import Path
from types import FrameType

from crm.sandbox.app import App
from crm.sandbox.clock import ORG_ZONE, Clock
from crm.sandbox.life import Life
from crm.sandbox.limits import CONCURRENCY, Limits, credits_of
from crm.sandbox.oauth import OAuth
from crm.sandbox.seed import seed_store
from crm.sandbox.seed_csv import BadCsv, seed_from_csv
from crm.sandbox.seed_org import Plan
from crm.sandbox.server import Server
from crm.sandbox.store import Store


class Stop(Exception):
    """A signal asked us to end."""


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line; wrong usage ends with status 2."""
    parser = argparse.ArgumentParser(prog="python -m crm.sandbox", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0 picks a free one")
    add("--db", type=Path, required=True, help="SQLite file; one that holds data is kept")
    add("--seed", type=int, default=7)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--deals", type=int, default=2000)
    source.add_argument("--csv", type=Path, help="folder of CSV files to load instead")
    add("--profile", choices=("standard", "och"), default="standard", help="field names")
    add("--today", type=dt.date.fromisoformat, help="the day the data ends (default: today)")
    add("--latency-ms", type=float, default=0)
    add("--edition", choices=sorted(CONCURRENCY), default="enterprise")
    add("--concurrency", type=int, help="calls at once (default: the edition's)")
    add("--credits", type=int, help="credits a day (default: the edition's)")
    add("--life", type=float, default=0, metavar="EDITS_PER_MINUTE")
    add("--control", action="store_true", help="serve POST /_control")
    add("--client-id", default="1000.SANDBOX")
    add("--client-secret", default="sandbox-secret")
    add("--refresh-token", default="1000.sandbox.refresh")
    add("--port-file", type=Path, help="write the port here once listening")
    add("--quiet", action="store_true")
    return parser.parse_args(argv)


def fill(store: Store, options: argparse.Namespace, clock: Clock) -> None:
    """Seed an empty database as the options say."""
    today = options.today or dt.datetime.fromtimestamp(clock.time(), ORG_ZONE).date()
    if options.csv is not None:
        seed_from_csv(store, options.csv, today, options.edition)
        return

    def progress(module: str) -> None:
        if not options.quiet:
            print(f"sandbox seeded {module}", file=sys.stderr, flush=True)

    plan = Plan(options.deals, options.seed, today, options.profile, options.edition)
    seed_store(store, plan, progress)


def build(store: Store, clock: Clock, options: argparse.Namespace) -> App:
    """The app with its limits, token desk and life."""
    edition = store.org.get("edition", options.edition)
    credits = (
        options.credits
        if options.credits is not None
        else credits_of(edition, store.org.get("licences", 1))
    )
    limits = Limits(clock, credits, options.concurrency or CONCURRENCY[edition])
    oauth = OAuth(store, options.client_id, options.client_secret, options.refresh_token)
    life = Life(store, options.life, options.seed)
    return App(
        store,
        clock,
        oauth,
        limits,
        life,
        latency_ms=options.latency_ms,
        with_control=options.control,
    )


def stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stop


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; 0 then, 2 when the data cannot be had."""
    options = arguments(argv)
    if options.deals < 0:
        print("sandbox: --deals must not be negative", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    clock = Clock()
    app = None
    try:
        store = Store(options.db, clock)
        if not store.is_seeded():
            fill(store, options, clock)
        app = build(store, clock, options)
        server = Server(options.host, options.port, app.handle)
        base = f"http://{options.host}:{server.port}"
        app.begin(base)
        if options.port_file is not None:
            partial = options.port_file.with_suffix(".part")
            partial.write_text(f"{server.port}\n")
            partial.replace(options.port_file)
        print(f"sandbox ready {base}", flush=True)
        server.serve()
    except Stop:
        if app is not None:
            app.limits.keep()
        return 0
    except (BadCsv, OSError, sqlite3.Error) as error:
        place = f" ({options.db})" if isinstance(error, sqlite3.Error) else ""
        print(f"sandbox: {error}{place}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Threads of open connections are daemons that may hold the interpreter lock in SQLite:
    # leave without tearing the interpreter down under them. WAL makes that safe.
    os._exit(status)
