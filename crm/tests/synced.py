"""The product pointed at a stand-in CRM: whole runs, and what must hold after each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from django.core.management import call_command

from crm.models import SyncRun
from crm.sync import modules, runs
from crm.sync.execute import execute
from crm.tests import oracle
from crm.tests.replay import live_values, replayed
from crm.tests.sandbox_process import (
    CLIENT_ID,
    CLIENT_SECRET,
    REFRESH_TOKEN,
    Sandbox,
)
from pipelinepulse.env import ZohoSettings

# Nothing waits in a test; a CRM that is down is given up at once.
IMPATIENT = {
    "connect_s": 2.0,
    "read_s": 2.0,
    "exchange_s": 3.0,
    "tries": 3,
    "first_delay_s": 0.01,
    "last_delay_s": 0.05,
    "total_s": 10.0,
    "mint_interval_s": 0.0,
    "breaker_failures": 1000,
}


def zoho_settings(url: str, **changes: Any) -> ZohoSettings:
    """Settings for a sandbox at this address."""
    return replace(
        ZohoSettings(
            base_url=url,
            accounts_url=url,
            api_version="v8",
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            refresh_token=REFRESH_TOKEN,
            rate_limit_per_minute=1_000_000,
            concurrency=4,
            patience=IMPATIENT,
        ),
        **changes,
    )


@dataclass
class Crm:
    """The product and its CRM. `sync` is one whole run, as worker and command make it."""

    sandbox: Sandbox
    settings: Any

    def control(self, do: str, **options: Any) -> Any:
        return self.sandbox.control(do, **options)

    def sync(self, kind: str = "full", *names: str, **options: Any) -> SyncRun:
        executing = {
            name: options.pop(name)
            for name in ("should_stop", "on_page", "on_interrupt", "make_client")
            if name in options
        }
        run = runs.request_run(
            kind=kind, trigger="command", module_names=names, nudge=False, **options
        )
        execute(run.pk, **executing)
        run.refresh_from_db()
        return run

    def ids(self, module: str = "Deals") -> list[str]:
        return [record["id"] for record in self.control("dump", module=module)["records"]]

    def record(self, zoho_id: Any, module: str = "Deals") -> dict[str, Any]:
        records = self.control("dump", module=module)["records"]
        return next(record for record in records if record["id"] == str(zoho_id))

    def requests(self) -> int:
        return self.control("stats")["requests"]

    def assert_mirrored(self, *names: str) -> None:
        """The mirror is the CRM, and its events tell the same."""
        chosen = names or tuple(m.name for m in modules.ORDER)
        differences = oracle.compare(self.sandbox, chosen)
        assert not differences, "\n".join(differences[:20])
        for module in chosen:
            assert replayed(module) == live_values(module), f"events of {module} tell otherwise"

    def forget_mirror(self) -> None:
        """As on a new installation."""
        call_command("flush", interactive=False, verbosity=0)
