"""/healthz and /readyz: is the process alive, can it serve.

Answered before every other layer: a load balancer calls by address, not by an allowed host name,
and must get its answer when sessions, and with them the database, are away. How the CRM and the
sync are doing is no question of readiness; `health` answers it.
"""

from collections.abc import Callable
from functools import cache

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from redis import Redis
from redis.exceptions import RedisError

BROKER_SECONDS = 0.5

Respond = Callable[[HttpRequest], HttpResponse]


class ProbeMiddleware:
    """Answers the two probes; passes everything else on."""

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        probe = PROBES.get(request.path_info)
        if probe is None:
            return self.get_response(request)
        if request.method not in {"GET", "HEAD"}:
            return HttpResponseNotAllowed(["GET", "HEAD"])
        response = probe(request)
        response["Cache-Control"] = "no-store"
        return response


def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the process lives; touches nothing."""
    return JsonResponse({"status": "ok"})


def readyz(request: HttpRequest) -> HttpResponse:
    """503 without database or with open migrations; without broker 200, *degraded*."""
    database = _database_state()
    broker = _broker_state()
    serves = database == "ok"
    status = "unavailable" if not serves else "ok" if broker == "ok" else "degraded"
    body = {"status": status, "database": database, "broker": broker}
    return JsonResponse(body, status=200 if serves else 503)


def _database_state() -> str:
    try:
        applied = set(MigrationRecorder(connection).applied_migrations())
    except DatabaseError:
        connection.close()
        return "unreachable"
    is_open = _shipped_migrations() - applied
    return f"{len(is_open)} migrations open" if is_open else "ok"


@cache
def _shipped_migrations() -> frozenset[tuple[str, str]]:
    """Every migration of this code. Read once: the files of a running process do not change."""
    return frozenset(MigrationLoader(None, ignore_no_migrations=True).disk_migrations)


def _broker_state() -> str:
    if not settings.REDIS_URL:
        return "not configured"
    client = Redis.from_url(
        settings.REDIS_CLIENT_URL,
        socket_connect_timeout=BROKER_SECONDS,
        socket_timeout=BROKER_SECONDS,
        retry=None,
    )
    try:
        client.ping()
    except (RedisError, OSError):
        return "unreachable"
    finally:
        client.close()
    return "ok"


PROBES: dict[str, Respond] = {"/healthz": healthz, "/readyz": readyz}
