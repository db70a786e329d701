"""The hidden hand, for tests and demos: POST /_control with {"do": "...", ...}.

Served only with `--control`; never counted, never limited. Answers 200 with JSON, or 400 with
{"error": "..."}. `module` is Deals, Accounts, Contacts or Leads; ids are texts or numbers.

  stats            requests, by_path, by_status, rule_breaks (since the last reset, see stats.py),
                   rule_breaks_ever, throttled, tokens_minted, mints_refused, credits_used,
                   most_in_flight, notices_sent
  reset_stats      all but rule_breaks_ever
  dump             {module} all live records as the list API shows them, and what is gone:
                   {"records": [...], "deleted": [{"id", "type", "deleted_time"}]}; streamed

What people do:
  edit             {module, id, values, raw?, touch?, user?} as a person in the CRM: Modified_Time
                   moves (unless touch is false). raw: values go in unchecked, of any JSON type,
                   Modified_Time and Created_Time too
  insert           {module, values, raw?, id?} -> {"id"}
  delete           {module, ids, type: "recycle" | "permanent"}
  restore          {module, ids} from the recycle bin, as it was
  merge            {module, id, ids} merge the records `ids` into `id`, see merging.py
  vanish, appear   {module, ids} lose sight of records, get it back; not in the deleted list
  hold, release    {module, ids, as: "approval" | "review" | "lock" | "blueprint" | "access"},
                   see holds.py; release without `as` lifts all
  user             {id or email, status} change a user's status
  live             {steps} that many acts of the life of its own, now (see life.py)
                   -> {"acts": [{"act", "module", "id"}]}; the same for the same seed and data

What administrators do:
  field            {module, api_name, action: "remove" | "restore" | "retype" | "relabel" |
                   "add_choice", data_type?, value?}
  currency         {iso_code, exchange_rate} set a rate
  workflow         {module, when?, set?, revert?} rewrite records after API writes, see workflows.py
  clear_workflows
  permission       {module, read: true | false} what the token's user may see; false: 403
  expire_tokens    all access tokens are stale now
  revoke_refresh_token, restore_refresh_token

Bad days:
  faults           {rules: [...]} see faults.py; added to those in force
  clear_faults
  bad_day          {seed, rows?, spread?, run?} a script of faults drawn from the seed, see
                   bad_days.py -> {"script": [{"row", "what", "do": {...}}]}; run false: only told
  hook             {after_requests: n, path?: prefix, run: {"do": ...}} run another command once
                   n more requests (to that path) were worked out, just before the n-th is sent
  config           {latency_ms, concurrency, credits, clock_offset_s, life, token_ttl_s,
                   mint_limit, mint_refusal_status (200 or 400), scopes: [...], bulk_job_s,
                   bulk_failures (so many next jobs fail), mixed_status, failed_status (of writes;
                   0: 207 and 400), notice_gather_ms, notice_lose, notice_repeat (chances 0..1),
                   notice_shuffle (0 or 1)} any of them; answers with what holds now
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crm.sandbox import control_org as org
from crm.sandbox import control_records as records
from crm.sandbox.bad_days import script_of
from crm.sandbox.control_reading import BadControl, Command, module_of
from crm.sandbox.errors import ApiError
from crm.sandbox.faults import BadRule
from crm.sandbox.server import Request, Response

if TYPE_CHECKING:
    from crm.sandbox.app import App

MOST_STEPS = 1_000_000


class Control:
    """Carries out control requests on the app's parts."""

    def __init__(self, app: "App") -> None:
        self.app = app
        self.store = store = app.store
        self._hooks: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._commands: dict[str, Callable[[Command], Any]] = {
            "stats": lambda _c: app.snapshot(),
            "reset_stats": lambda _c: app.stats.reset(),
            "edit": lambda c: records.edit(store, c),
            "insert": lambda c: records.insert(store, c),
            "delete": lambda c: records.delete(store, c),
            "restore": lambda c: records.bring_back(store, c, ("recycle",)),
            "merge": lambda c: records.merge(store, c),
            "vanish": lambda c: records.take(store, c, "hidden"),
            "appear": lambda c: records.bring_back(store, c, ("hidden",)),
            "hold": lambda c: records.hold(store, c),
            "release": lambda c: records.release(store, c),
            "user": lambda c: org.user(store, c),
            "live": self._live,
            "field": lambda c: org.field(store, c),
            "currency": lambda c: org.currency(store, c),
            "workflow": lambda c: org.workflow(store, c),
            "clear_workflows": lambda _c: store.workflows.clear(),
            "permission": lambda c: org.permission(app, c),
            "expire_tokens": lambda _c: app.oauth.expire_tokens(),
            "revoke_refresh_token": lambda _c: app.oauth.revoke_refresh_token(),
            "restore_refresh_token": lambda _c: app.oauth.restore_refresh_token(),
            "faults": self._faults,
            "clear_faults": lambda _c: app.faults.clear(),
            "bad_day": self._bad_day,
            "hook": self._hook,
            "config": lambda c: org.config(app, c),
        }

    def handle(self, request: Request) -> Response:
        """POST /_control"""
        try:
            if request.method != "POST":
                raise BadControl("POST a JSON object with a key 'do'")
            content = request.json
            if not isinstance(content, dict):
                raise BadControl("the body must be a JSON object with a key 'do'")
            if content.get("do") == "dump":
                return Response(
                    200, stream=records.dump(self.store, module_of(self.store, content))
                )
            return Response.of(self.run(content))
        except (BadControl, BadRule, ValueError) as error:
            return Response.of({"error": str(error)}, 400)
        except ApiError as error:
            return Response.of({"error": error.item()}, 400)

    def run(self, content: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; its result, or {"ok": true}."""
        command = self._commands.get(str(content.get("do")))
        if command is None:
            known = ", ".join(sorted([*self._commands, "dump"]))
            raise BadControl(f"unknown command {content.get('do')!r}; known: {known}")
        return command(content) or {"ok": True}

    def after_request(self, request: Request) -> None:
        """Run hooks that are due now that this request was answered."""
        if not self._hooks:
            return
        due = []
        with self._lock:
            for hook in self._hooks:
                if request.path.startswith(hook["path"]):
                    hook["left"] -= 1
                    if hook["left"] == 0:
                        due.append(hook)
            self._hooks = [hook for hook in self._hooks if hook["left"] > 0]
        for hook in due:
            self.run(hook["do"])

    # -- behaviour --------------------------------------------------------------------------

    def _live(self, content: Command) -> dict[str, Any]:
        steps = content.get("steps", 1)
        if isinstance(steps, bool) or not isinstance(steps, int) or not 0 < steps <= MOST_STEPS:
            raise BadControl(f"'steps' must be a whole number of 1 to {MOST_STEPS}")
        return {"acts": [self.app.life.act() for _ in range(steps)]}

    def _bad_day(self, content: Command) -> dict[str, Any]:
        try:
            script = script_of(self.store, content)
        except ValueError as error:
            raise BadControl(str(error)) from error
        if content.get("run", True):
            for step in script:
                self.run(step["do"])
        return {"script": script}

    def _faults(self, content: dict[str, Any]) -> None:
        rules = content.get("rules")
        if not isinstance(rules, list):
            raise BadControl("'rules' must be a list of fault rules")
        self.app.faults.add(rules)

    def _hook(self, content: dict[str, Any]) -> None:
        count, command = content.get("after_requests"), content.get("run")
        if not isinstance(count, int) or count < 1:
            raise BadControl("'after_requests' must be a whole number of at least 1")
        if not isinstance(command, dict):
            raise BadControl("'run' must be a control command")
        with self._lock:
            self._hooks.append({"left": count, "path": str(content.get("path", "")), "do": command})
