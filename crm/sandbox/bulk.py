"""Bulk read: jobs that write a module, or what matches a criteria, to a zipped CSV file.

A job runs in a thread of its own and takes at least `job_s`; its states go ADDED, QUEUED,
IN PROGRESS, COMPLETED. The file shows the data as of the job's run and is kept for a day beside
the database. A job that a kill interrupted is run again when somebody asks for it.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import base64
import csv
import hmac
import io
import json
import socket
import struct
import threading
import time
import traceback
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

from crm.sandbox.bulk_criteria import compile_bulk_criteria
from crm.sandbox.clock import text_of
from crm.sandbox.coql import Translator
from crm.sandbox.coql_parser import Query
from crm.sandbox.errors import ApiError, too_many_requests
from crm.sandbox.fragments import quoted, table_of
from crm.sandbox.holds import approved_rule
from crm.sandbox.page_tokens import signing_key
from crm.sandbox.params import json_object
from crm.sandbox.posting import callback_of, post_json
from crm.sandbox.rows import acting_user, person
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store
from crm.sandbox.timeline import DEAL_HISTORY, deal_history
from crm.sandbox.views import view_condition

ROWS_PER_JOB = 200_000
LAST_PAGE = 500
STEP = 2_000
KEPT_S = 86_400
COST = 50
DOWNLOADS_PER_MINUTE = 10
_TOKEN = struct.Struct(">Iq")


class WantedFailure(Exception):
    """Control asked for a job that fails."""


class BulkJobs:
    """All jobs of the org. `job_s` is how long one takes at least."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.job_s = 0.2
        self.failures = 0
        self.folder = store.path.with_name(store.path.name + ".bulk")
        self._running: set[int] = set()
        self._downloads: deque[float] = deque()
        self._lock = threading.Lock()

    # -- endpoints ---------------------------------------------------------------------------

    def create(self, _store: Store, request: Request) -> Response:
        """POST /crm/bulk/v8/read"""
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise ApiError(415, "MEDIA_TYPE_NOT_SUPPORTED", "media type is not supported")
        content = json_object(request)
        query = content.get("query")
        if not isinstance(query, dict):
            raise ApiError(
                400, "MANDATORY_NOT_FOUND", "required field not found", {"api_name": "query"}
            )
        plan = self._checked(query)
        callback = callback_of(content)
        if content.get("file_type", "csv") != "csv":
            raise ApiError(400, "INVALID_DATA", "invalid data", {"api_name": "file_type"})
        now = self.store.clock.time()
        with self.store.write() as tx:
            job_id = tx.next_id()
            job = {"plan": plan, "query": query, "callback": callback, "created": now}
            tx.sql.execute("insert into bulk_job values (?,?)", (job_id, json.dumps(job)))
        self._start(job_id, job)
        return Response.of(
            {
                "data": [
                    {
                        "status": "success",
                        "code": "ADDED_SUCCESSFULLY",
                        "message": "Added successfully.",
                        "details": {
                            "id": str(job_id),
                            "operation": "read",
                            "state": "ADDED",
                            "created_by": self._creator(),
                            "created_time": text_of(now),
                        },
                    }
                ],
                "info": {},
            },
            201,
            credits=COST,
        )

    def status(self, _store: Store, _request: Request, job_id: str) -> Response:
        """GET /crm/bulk/v8/read/{id}"""
        job = self._job(int(job_id))
        return Response.of({"data": [self._describe(int(job_id), job)]})

    def result(self, _store: Store, _request: Request, job_id: str) -> Response:
        """GET /crm/bulk/v8/read/{id}/result: the zip file, at most ten a minute."""
        job = self._job(int(job_id))
        path = self._path(int(job_id))
        if "result" not in job or not path.exists():
            raise _not_found(job_id)
        with self._lock:
            now = self.store.clock.time()
            while self._downloads and self._downloads[0] <= now - 60:
                self._downloads.popleft()
            if len(self._downloads) >= DOWNLOADS_PER_MINUTE:
                raise too_many_requests("You have reached the limit of downloads of a minute")
            self._downloads.append(now)
        response = Response(200, content_type="application/zip", length=path.stat().st_size)
        response.headers["Content-Disposition"] = f'attachment; filename="{job_id}.zip"'
        response.deliver = _file_sender(path)
        return response

    # -- checking ------------------------------------------------------------------------------

    def _checked(self, query: dict[str, Any]) -> dict[str, Any]:
        """The query as what to select: module, fields, where to start."""
        module = query.get("module")
        name = str(module.get("api_name") if isinstance(module, dict) else module)
        is_history = name == "DealHistory"
        if name not in self.store.modules and not is_history:
            raise ApiError(400, "INVALID_MODULE", "the module name given seems to be invalid")
        fields = query.get("fields")
        if fields is None:
            fields = list(DEAL_HISTORY if is_history else self.store.modules[name].visible())
        if not isinstance(fields, list) or not all(isinstance(f, str) for f in fields):
            raise ApiError(400, "INVALID_DATA", "invalid data", {"api_name": "fields"})
        if is_history:
            if query.get("criteria") is not None or not set(fields) <= {"id", *DEAL_HISTORY}:
                raise ApiError(400, "INVALID_DATA", "invalid data", {"api_name": "fields"})
        else:
            self._check_columns(name, fields, query)
        after, page = 0, query.get("page", 1)
        if query.get("page_token") is not None:
            after, page = self._read_token(query["page_token"]), 1
        if not isinstance(page, int) or not page >= 1:
            raise ApiError(400, "INVALID_DATA", "invalid data", {"api_name": "page"})
        if page > LAST_PAGE:
            raise ApiError(
                400, "PAGE_RANGE_EXCEEDED", "page range exceeded", {"max_limit": LAST_PAGE}
            )
        return {"module": name, "fields": fields, "page": page, "after": after}

    def _check_columns(self, name: str, fields: list[str], query: dict[str, Any]) -> None:
        module = self.store.modules[name]
        view_condition(self.store, module, {k: query[k] for k in ("cvid",) if k in query})
        translator = Translator(self.store, Query(module=name), most_joins=len(fields))
        for path in fields:
            translator.place(path)
        if query.get("criteria") is not None:
            compile_bulk_criteria(translator, query["criteria"])

    def _make_token(self, last_id: int) -> str:
        packed = _TOKEN.pack(int(self.store.clock.time()) + KEPT_S, last_id)
        signature = hmac.digest(signing_key(self.store), packed, "sha256")[:8]
        return base64.urlsafe_b64encode(packed + signature).decode().rstrip("=")

    def _read_token(self, token: Any) -> int:
        refusal = ApiError(400, "INVALID_DATA", "invalid data", {"api_name": "page_token"})
        try:
            raw = base64.urlsafe_b64decode(str(token) + "=" * (-len(str(token)) % 4))
            expires, last_id = _TOKEN.unpack(raw[:-8])
        except (ValueError, struct.error) as error:
            raise refusal from error
        expected = hmac.digest(signing_key(self.store), raw[:-8], "sha256")[:8]
        if not hmac.compare_digest(raw[-8:], expected):
            raise refusal
        if expires <= self.store.clock.time():
            raise ApiError(
                400, "EXPIRED_VALUE", "the page token is expired", {"api_name": "page_token"}
            )
        return last_id

    # -- jobs ------------------------------------------------------------------------------------

    def _job(self, job_id: int) -> dict[str, Any]:
        with self.store.reader() as sql:
            found = sql.execute("select definition from bulk_job where id=?", (job_id,)).fetchone()
        if found is None:
            raise _not_found(str(job_id))
        job = json.loads(found[0])
        if job.get("finished", self.store.clock.time()) < self.store.clock.time() - KEPT_S:
            raise _not_found(str(job_id))
        if "result" not in job and "failure" not in job:
            self._start(job_id, job)
        return job

    def _describe(self, job_id: int, job: dict[str, Any]) -> dict[str, Any]:
        description = {
            "id": str(job_id),
            "operation": "read",
            "state": self._state(job),
            "query": job["query"],
            "created_by": self._creator(),
            "created_time": text_of(job["created"]),
            "file_type": "csv",
        }
        if "failure" in job:
            description["result"] = {"error_message": job["failure"]}
        elif "result" in job:
            description["result"] = {
                "page": job["plan"]["page"],
                "per_page": ROWS_PER_JOB,
                "download_url": f"/crm/bulk/v8/read/{job_id}/result",
                **job["result"],
            }
        return description

    def _state(self, job: dict[str, Any]) -> str:
        if "failure" in job:
            return "FAILURE"
        if "result" in job:
            return "COMPLETED"
        done = (self.store.clock.time() - job["created"]) / max(self.job_s, 0.001)
        return "ADDED" if done < 0.2 else "QUEUED" if done < 0.5 else "IN PROGRESS"

    def _creator(self) -> dict[str, str] | None:
        return person(self.store, acting_user(self.store))

    def _path(self, job_id: int) -> Path:
        return self.folder / f"{job_id}.zip"

    def _start(self, job_id: int, job: dict[str, Any]) -> None:
        with self._lock:
            if job_id in self._running:
                return
            self._running.add(job_id)
        threading.Thread(target=self._run, args=(job_id, job), daemon=True).start()

    def _run(self, job_id: int, job: dict[str, Any]) -> None:
        started = time.monotonic()
        try:
            if self.failures > 0:
                self.failures -= 1
                raise WantedFailure("the job failed")
            outcome = {"result": self._export(job_id, job)}
        except Exception as error:
            if not isinstance(error, WantedFailure):
                traceback.print_exc()
            outcome = {
                "failure": {
                    "code": "INTERNAL_SERVER_ERROR",
                    "message": str(error),
                    "details": {},
                    "status": "error",
                }
            }
        time.sleep(max(0.0, self.job_s - (time.monotonic() - started)))
        job = {**job, **outcome, "finished": self.store.clock.time()}
        with self.store.write() as tx:
            tx.sql.execute("update bulk_job set definition=? where id=?", (json.dumps(job), job_id))
        with self._lock:
            self._running.discard(job_id)
        if job["callback"]:
            post_json(job["callback"], {"data": [self._describe(job_id, job)], "info": {}})

    # -- the file -------------------------------------------------------------------------------

    def _export(self, job_id: int, job: dict[str, Any]) -> dict[str, Any]:
        """Write the zip; how many rows, whether there are more, and the token to go on."""
        self.folder.mkdir(exist_ok=True)
        partial = self._path(job_id).with_suffix(".part")
        count = last = 0
        more = False
        with (
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open(f"{job_id}.csv", "w", force_zip64=True) as raw,
            io.TextIOWrapper(raw, encoding="utf-8", newline="", errors="replace") as text,
        ):
            writer = csv.writer(text)
            writer.writerow(["Id", *(f for f in job["plan"]["fields"] if f != "id")])
            for rows in self._chunks(job):
                room = ROWS_PER_JOB - count
                more = len(rows) > room
                writer.writerows(rows[:room])
                count += len(rows[:room])
                if rows[:room]:
                    last = int(rows[:room][-1][0])
                if more:
                    break
        partial.replace(self._path(job_id))
        return {
            "count": count,
            "more_records": more,
            "next_page_token": self._make_token(last) if more else None,
        }

    def _chunks(self, job: dict[str, Any]) -> Any:
        """Lists of rows by rising id, texts as the CSV shall hold them."""
        plan = job["plan"]
        if plan["module"] == "DealHistory":
            yield from self._history(plan)
            return
        translator = Translator(
            self.store, Query(module=plan["module"]), most_joins=len(plan["fields"])
        )
        names = [f for f in plan["fields"] if f != "id"]
        columns = ["'\"'||d.id||'\"'", *(_csv_sql(translator, name) for name in names)]
        where = "1"
        params: list[Any] = []
        if job["query"].get("criteria") is not None:
            where, params = compile_bulk_criteria(translator, job["query"]["criteria"])
        view, user = view_condition(
            self.store,
            self.store.modules[plan["module"]],
            {k: job["query"][k] for k in ("cvid",) if k in job["query"]},
        )
        where = f"({where}){view}{approved_rule(self.store, plan['module'], 'true')}"
        params = params + user
        row = "'['||" + "||','||".join(columns) + "||']'"
        statement = (
            f"select {row}, d.id from {table_of(plan['module'])} d "
            f"{' '.join(translator.joins.values())} where d.id > ? and {where} "
            f"order by d.id limit {STEP} offset ?"
        )
        after, offset = plan["after"], (plan["page"] - 1) * ROWS_PER_JOB
        with self.store.reader() as sql:
            while True:
                found = sql.execute(statement, (after, *params, offset)).fetchall()
                if not found:
                    return
                joined = b"[" + b",".join(item[0] for item in found) + b"]"
                yield json.loads(joined, parse_float=str, parse_int=str)
                after, offset = found[-1][1], 0

    def _history(self, plan: dict[str, Any]) -> Any:
        skip = (plan["page"] - 1) * ROWS_PER_JOB
        chosen = [0, *(1 + DEAL_HISTORY.index(f) for f in plan["fields"] if f != "id")]
        for rows in deal_history(self.store, plan["after"]):
            dropped = min(skip, len(rows))
            skip -= dropped
            yield [[row[n] for n in chosen] for row in rows[dropped:]]


def _csv_sql(translator: Translator, path: str) -> str:
    """A field as JSON text whose Python value is the cell: ids for lookups, true and false."""
    place = translator.place(path)
    if place.user_key is not None:
        return translator.json_sql(path)
    column = f"{place.alias}.{quoted(place.field.api_name)}"
    if place.field.api_name == "id":
        return translator.json_sql(path)
    if place.field.is_lookup:
        return (
            f"case typeof({column}) when 'integer' then '\"'||{column}||'\"' "
            f"when 'null' then 'null' else {column} end"
        )
    if place.field.data_type == "boolean":
        return (
            f"case when {column} in ('true','false') then '\"'||{column}||'\"' "
            f"else ifnull({column},'null') end"
        )
    if place.field.api_name == "Tag":
        return "'null'"
    return translator.json_sql(path)


def _not_found(job_id: str) -> ApiError:
    return ApiError(
        404, "RESOURCE_NOT_FOUND", "the resource is not found", {"resource": job_id}, counts=False
    )


def _file_sender(path: Path) -> Any:
    def deliver(connection: socket.socket, head: bytes, _body: bytes) -> bool:
        connection.sendall(head)
        with path.open("rb") as file:
            connection.sendfile(file)
        return True

    return deliver
