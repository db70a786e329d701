"""The log: no secret gets into it, and no text can forge a line of it."""

import io
import json
import logging
import re

import pytest
import structlog
from django.conf import settings

from pipelinepulse.logs import ConsoleFormatter, JsonFormatter, Redactor, one_line

KNOWN = "kn0wn-client-secret"


@pytest.fixture(params=[ConsoleFormatter, JsonFormatter])
def log(request):
    """Log something as the product does; gives back what was written."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(request.param([KNOWN]))
    logger = logging.Logger("crm.zoho.transport")
    logger.addHandler(handler)

    def log_it(message, *args, **options) -> str:
        logger.warning(message, *args, **options)
        return written.getvalue()

    return log_it


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"told {KNOWN} to nobody", KNOWN),
        ("Authorization: Zoho-oauthtoken 1000.aaaabbbbcccc.ddddeeee", "aaaabbbb"),
        ("{'Authorization': 'Zoho-oauthtoken 1000.aaaabbbbcccc.ddddeeee'}", "aaaabbbb"),
        ("Authorization: Token 0123456789abcdef0123", "0123456789"),
        ("POST /oauth/v2/token?refresh_token=1000.zzzzyyyyxxxx&client_id=1", "zzzzyyyy"),
        ("client_secret=s3cr3ts3cr3t&grant_type=refresh_token", "s3cr3t"),
        ('{"access_token": "opaque-access-value", "expires_in": 3600}', "opaque-access"),
        ("body {'token': 'hook-token-value', 'module': 'Deals'}", "hook-token-value"),
        ("password=hunter2hunter2", "hunter2"),
        ("Cookie: sessionid=abcdefghijklmnop", "abcdefghij"),
        ("postgres://pulse:hunter2hunter2@db/pulse refused", "hunter2"),
        ("a bare 1000.0123456789abcdef.fedcba9876543210 in a text", "0123456789abcdef"),
    ],
)
def test_secrets_do_not_reach_the_log(log, text: str, secret: str) -> None:
    assert secret not in log(text)


def test_secret_in_an_argument_or_traceback_does_not_reach_the_log(log) -> None:
    try:
        raise ValueError(f"refused {KNOWN}, token=abcdefabcdef")
    except ValueError:
        written = log("failed with %s", {"client_secret": "abcdefabcdef"}, exc_info=True)
    assert KNOWN not in written
    assert "abcdefabcdef" not in written
    assert "ValueError" in written


@pytest.mark.parametrize(
    "text",
    [
        "GET /crm/v8/Deals?page_token=… 200 in 51 ms",
        "Token refreshed, valid for 3600 s",
        "12 tokens left in the bucket",
        "Deal 5725767000000524157 of Secret Garden Ltd. stored",
    ],
)
def test_innocent_text_is_left_as_it_is(text: str) -> None:
    assert Redactor([KNOWN])(text).startswith(text[:20])
    assert text.split()[-1] in Redactor([KNOWN])(text)


def test_line_breaks_and_escape_codes_of_a_name_stay_on_its_line(log) -> None:
    name = "Acme\r\n10:00:00 ERROR crm: forged\x1b[31m\u2028x"
    written = log("stored %s", name)
    assert written.count("\n") == 1
    assert "\x1b" not in written
    assert "\u2028" not in written
    assert "Acme" in written


def test_lines_of_a_traceback_cannot_pass_for_events() -> None:
    formatter = ConsoleFormatter()
    try:
        raise ValueError("x\n10:00:00 ERROR crm: forged")
    except ValueError as error:
        record = logging.LogRecord("crm", 40, "", 0, "bad", (), (ValueError, error, None))
    _, *rest = formatter.format(record).splitlines()
    assert rest
    assert all(line.startswith("    | ") for line in rest)


def test_json_lines_are_json(caplog) -> None:
    record = logging.LogRecord("crm", 30, "", 0, 'a "quoted"\nname', (), None)
    event = json.loads(JsonFormatter().format(record))
    assert event["message"] == 'a "quoted"\nname'
    assert event["level"] == "WARNING"


def test_arguments_that_do_not_fit_do_not_lose_the_event() -> None:
    record = logging.LogRecord("crm", 30, "", 0, "%d records", ("many",), None)
    assert "many" in ConsoleFormatter().format(record)


def test_every_handler_of_the_product_formats_safely() -> None:
    used = {handler["formatter"] for handler in settings.LOGGING["handlers"].values()}
    assert used == {"safe"}
    assert settings.SECRET_KEY in settings.LOGGING["formatters"]["safe"]["secrets"]
    assert not any(logger.get("handlers") for logger in settings.LOGGING["loggers"].values())


def test_structured_events_take_the_same_way(caplog) -> None:
    log = structlog.get_logger("crm.sync.test")
    with caplog.at_level(logging.INFO, "crm.sync.test"):
        log.bind(run=7).info("page stored, 100 % of it", rows=200)
        try:
            raise ValueError("bad")
        except ValueError:
            log.exception("page lost", token="abcdefabcdef")
    stored, lost = caplog.records
    assert stored.getMessage() == "page stored, 100 % of it run=7 rows=200"
    assert lost.exc_info is not None
    assert "abcdefabcdef" not in ConsoleFormatter().format(lost)
    assert "ValueError: bad" in ConsoleFormatter().format(lost)


def test_one_line_keeps_letters_of_every_script() -> None:
    assert one_line("Zoë – 東京 🚀") == "Zoë – 東京 🚀"
    assert not re.search(r"[\x00-\x1f]", one_line("".join(map(chr, range(32)))))
