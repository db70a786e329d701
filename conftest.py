"""What every test stands on: a clean environment, a fixed now, people by role, a browser.

Decides that the machine's own settings do not reach the tests: only DATABASE_URL is kept, so that
the same suite runs on SQLite and on PostgreSQL. Nothing but loopback can be reached.
"""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import pytest
from pytest_django.plugin import blocking_manager_key

from crm.tests.sandbox_process import Sandbox, running_sandbox
from pipelinepulse import env
from pipelinepulse.tests import browser as browser_tools
from pipelinepulse.tests import servers, shipped_rows

# The same examples each time, or new ones (`--hypothesis-profile=searching`); no example is timed.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("searching", deadline=None)

DATABASE_URL = os.environ.get("DATABASE_URL", "")
REQUIRE_ALL = os.environ.get("PULSE_REQUIRE_ALL") == "1"

# A shell's background job ignores Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_home = tempfile.mkdtemp(prefix="pulse-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)

# Empty counts as absent, and hides what a developer's `.env` says.
os.environ.update(dict.fromkeys(env.SETTING_NAMES, ""))
os.environ.update(
    PULSE_HOME=_home,
    PULSE_EMBEDDED="1",
    DATABASE_URL=DATABASE_URL,
    STATIC_HASHED="0",
    LOG_LEVEL="WARNING",
    DJANGO_SETTINGS_MODULE="pipelinepulse.settings",
)

from django.conf import settings  # noqa: E402

if settings.configured:
    raise pytest.UsageError("DJANGO_SETTINGS_MODULE is set; unset it: the tests choose settings")
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
settings.CELERY_TASK_ALWAYS_EAGER = True
settings.CELERY_TASK_EAGER_PROPAGATES = True
# A worker that is there at once is woken by each notice, not by a timer behind it.
settings.WEBHOOK_NUDGE_GAP_S = 0
if "sqlite3" in settings.DATABASES["default"]["ENGINE"]:
    # A file as in real life: a database in memory knows neither WAL nor a second process.
    settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = f"{_home}/test.sqlite3"

# A worker of xdist that inherits the name loads the settings before its conftest prepares them.
_settings_module = os.environ.pop("DJANGO_SETTINGS_MODULE")

ROLES = {"rep": "sales rep", "manager": "sales manager", "ops": "ops", "integrator": "integrator"}


# Fixtures that make a test run with real transactions; `live_server` asks for one of them.
TRANSACTIONAL = {"transactional_db", "django_db_reset_sequences", "live_server"}
SHIPPED_ROWS = pytest.StashKey[str]()

# --- nothing skipped where everything is required --------------------------------------------
_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    is_controller = not hasattr(session.config, "workerinput")
    if REQUIRE_ALL and _skipped and is_controller and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if REQUIRE_ALL and _skipped:
        terminalreporter.section("left out although everything is required", red=True)
        for nodeid in _skipped:
            terminalreporter.line(nodeid)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to the other database's pass what is about that database."""
    on_postgres = "postgresql" in settings.DATABASES["default"]["ENGINE"]

    def belongs_elsewhere(item: pytest.Item) -> bool:
        if "postgres_url" in getattr(item, "fixturenames", ()):
            return on_postgres  # it brings its own server; once is enough
        return item.get_closest_marker("sqlite" if on_postgres else "postgres") is not None

    elsewhere = [item for item in items if belongs_elsewhere(item)]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A test with real transactions ends by emptying every table; what migrations had put there
    (roles, schedules, stages) comes back for whoever is next."""
    yield
    marker = item.get_closest_marker("django_db")
    has_emptied = (marker is not None and marker.kwargs.get("transaction")) or (
        TRANSACTIONAL.intersection(getattr(item, "fixturenames", ()))
    )
    # After the last test the database itself is gone.
    if has_emptied and nextitem is not None and SHIPPED_ROWS in item.config.stash:
        with item.config.stash[blocking_manager_key].unblock():
            shipped_rows.restore(item.config.stash[SHIPPED_ROWS])


@pytest.fixture(scope="session")
def django_db_setup(
    django_db_setup: None, django_db_blocker: Any, request: pytest.FixtureRequest
) -> None:
    """The migrated database; what the migrations put into it is remembered."""
    with django_db_blocker.unblock():
        request.config.stash[SHIPPED_ROWS] = shipped_rows.remember()


@pytest.fixture(scope="session", autouse=True)
def _programs_find_the_settings() -> None:
    """Programs that a test starts find them by name again; workers are up by now."""
    os.environ["DJANGO_SETTINGS_MODULE"] = _settings_module


# --- servers ---------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server where a test may make databases: TEST_POSTGRES_URL or its own."""
    yield from _server("TEST_POSTGRES_URL", servers.private_postgres)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis database that a test may fill and flush: at TEST_REDIS_URL or its own server.

    Workers of one session have a database each.
    """
    for url in _server("TEST_REDIS_URL", servers.private_redis):
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        yield urlsplit(url)._replace(path=f"/{worker}").geturl()


def _server(variable: str, private: Callable[[], Any]) -> Iterator[str]:
    if given := os.environ.get(variable):
        yield given
        return
    try:
        with private() as url:
            yield url
    except servers.NotInstalled as missing:
        pytest.skip(f"{missing} is not installed")


# --- the stand-in CRM ------------------------------------------------------------------------
@pytest.fixture(scope="session")
def sandbox_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a sandbox with fifty deals, made once."""
    folder = tmp_path_factory.mktemp("sandbox")
    with running_sandbox(folder, deals=50) as process:
        return process.db


@pytest.fixture
def sandbox(sandbox_seed: Path, tmp_path: Path) -> Iterator[Sandbox]:
    """A stand-in CRM of the test's own, with the same fifty deals for everybody."""
    shutil.copy(sandbox_seed, tmp_path / "sandbox.db")
    with running_sandbox(tmp_path) as process:
        yield process


# --- time and people -------------------------------------------------------------------------
@pytest.fixture
def now() -> datetime:
    """A Tuesday noon in the business time zone, passed to whatever takes a clock."""
    return datetime(2026, 3, 10, 4, 0, tzinfo=UTC)


@pytest.fixture
def person(db: None, django_user_model: Any) -> Callable[..., Any]:
    """Make a user of a role: `person("rep", "ann")` is ann@example.com among the sales reps."""
    from django.contrib.auth.models import Group

    def make(role: str, name: str = "") -> Any:
        name = name or role
        user = django_user_model.objects.create_user(
            name, f"{name}@example.com", "a password", is_staff=role == "ops"
        )
        user.groups.add(Group.objects.get(name=ROLES[role]))
        return user

    return make


@pytest.fixture
def rep(person: Callable[..., Any]) -> Any:
    return person("rep")


@pytest.fixture
def manager(person: Callable[..., Any]) -> Any:
    return person("manager")


@pytest.fixture
def ops(person: Callable[..., Any]) -> Any:
    return person("ops")


@pytest.fixture
def integrator(person: Callable[..., Any]) -> Any:
    return person("integrator")


def _signed_in(user: Any) -> Any:
    from django.test import Client

    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def rep_client(rep: Any) -> Any:
    return _signed_in(rep)


@pytest.fixture
def manager_client(manager: Any) -> Any:
    return _signed_in(manager)


@pytest.fixture
def ops_client(ops: Any) -> Any:
    return _signed_in(ops)


@pytest.fixture
def integrator_client(integrator: Any) -> Any:
    """A client that sends the integrator's API token, and no cookie."""
    from django.test import Client
    from rest_framework.authtoken.models import Token

    token = Token.objects.create(user=integrator)
    return Client(headers={"authorization": f"Token {token.key}"})


# --- browser ---------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    path = browser_tools.chromium()
    if path is None:
        pytest.skip("no chromium on PATH")
    return {"executable_path": path, "args": browser_tools.FLAGS}


@pytest.fixture
def page(context: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A tab that fails its test on any console error, script error or CSP violation."""
    # The driver keeps an event loop in this thread; the ORM would take the test for a coroutine.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    problems = browser_tools.watch(context)
    page = context.new_page()
    yield page
    page.close()
    assert problems == []
