"""What reaches the log: one line per event, without secrets and without control characters.

Decides the form (for eyes or for machines) and what is taken out. It works on the finished line,
so that nothing a library puts into a message, an argument or a traceback gets past it.
"""

import json
import logging
import re
from collections.abc import Iterable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog

HIDDEN = "[hidden]"

_NAMED_SECRET = re.compile(
    r"""(?ix)
    (?P<name>["']?\b(?:[\w-]*(?:token|secret|password|passwd|api[_-]?key|encryption_keys?
        |secret_key|sessionid|cookie|authorization))["']?)
    (?P<mid>\s*[=:]\s*["']?)
    (?P<scheme>(?:zoho-oauthtoken|bearer|token|basic)\s+)?
    (?P<value>[^\s"'&,;}\])]{4,})
    """
)
_SCHEME = re.compile(r"(?i)\b(zoho-oauthtoken|bearer|basic)\s+[\w.~+/=-]{4,}")
_ZOHO_TOKEN = re.compile(r"\b1000\.[0-9A-Za-z]{6,}(?:\.[0-9A-Za-z]+)*")
_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+(?=@)", re.I)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Redactor:
    """Takes secrets out of a text: those it was told, and whatever looks like one."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        # A short word as "secret" would blank innocent text; nothing real is that short.
        self._known = sorted({value for value in known if len(value) >= 8}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._known:
            text = text.replace(value, HIDDEN)
        text = _NAMED_SECRET.sub(_keep_name, text)
        text = _SCHEME.sub(rf"\1 {HIDDEN}", text)
        text = _ZOHO_TOKEN.sub(HIDDEN, text)
        return _URL_PASSWORD.sub(rf"\1{HIDDEN}", text)


def _keep_name(found: re.Match[str]) -> str:
    return f"{found['name']}{found['mid']}{found['scheme'] or ''}{HIDDEN}"


def one_line(text: str) -> str:
    """The text with every control character written out, so that it can forge nothing."""
    return _CONTROL.sub(lambda found: _escape(found[0]), text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class _SafeFormatter(logging.Formatter):
    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.redact = Redactor(secrets)

    def message_of(self, record: logging.LogRecord) -> str:
        try:
            return record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: the event must not be lost
            return f"{record.msg} {record.args!r}"

    def trace_of(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class ConsoleFormatter(_SafeFormatter):
    """`10:02:03 WARNING crm.sync: text`; a traceback follows, each line marked with a bar."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        head = f"{time} {record.levelname} {record.name}: {one_line(self.message_of(record))}"
        trace = [f"    | {one_line(line)}" for line in self.trace_of(record).splitlines()]
        return self.redact("\n".join([head, *trace]))


class JsonFormatter(_SafeFormatter):
    """One JSON object per line: time, level, logger, message, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": self.redact(self.message_of(record)),
        }
        if trace := self.trace_of(record):
            event["traceback"] = self.redact(trace)
        return json.dumps(event)


def _as_record(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, Any]]:
    """structlog's event as a plain record: `event name=value …`; the formatter does the rest."""
    trace = event.pop("exc_info", None)
    words = [str(event.pop("event", "")), *(f"{name}={value!r}" for name, value in event.items())]
    return (" ".join(words),), {"exc_info": trace} if trace else {}


def configure_structlog() -> None:
    """Send what is logged by structlog the same way as everything else."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _as_record,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def configuration(*, level: str, form: str, secrets: Iterable[str]) -> dict[str, Any]:
    """LOGGING for Django: everything goes to standard error through one safe formatter."""
    formatter = JsonFormatter if form == "json" else ConsoleFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"safe": {"()": formatter, "secrets": tuple(secrets)}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "safe"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Django hangs handlers of its own on these; all output goes through the root's.
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], "level": level, "propagate": True},
            # Refused hosts, wrong CSRF tokens and 4xx answers are the visitor's business.
            "django.security.DisallowedHost": {"level": "ERROR", "propagate": True},
            "django.request": {"level": "ERROR", "propagate": True},
            "urllib3": {"level": "WARNING", "propagate": True},
            # A line for each message received and done: the sweepers alone make eight a minute.
            "celery.worker.strategy": {"level": "WARNING", "propagate": True},
            "celery.app.trace": {"level": "WARNING", "propagate": True},
            "celery.beat": {"level": "WARNING", "propagate": True},
            # It warns that the address of a socket names no host.
            "kombu.connection": {"level": "ERROR", "propagate": True},
            "axes": {"level": "WARNING", "propagate": True},
        },
    }
