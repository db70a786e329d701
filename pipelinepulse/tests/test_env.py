"""Settings: what is accepted, and the one sentence with which the rest is refused."""

import json
import os
import re
import stat
import tempfile
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from crm.tests.processes import run_in_child
from pipelinepulse import env, home
from pipelinepulse.env import ConfigurationError

KEY = Fernet.generate_key().decode()
CRM = {
    "ZOHO_CLIENT_ID": "1000.ABC",
    "ZOHO_CLIENT_SECRET": "hush-hush-hush",
    "ZOHO_REFRESH_TOKEN": "1000.refresh.refresh",
}
PRODUCTION = {
    "SECRET_KEY": "a long random text that nobody guesses",
    "ENCRYPTION_KEYS": KEY,
    "ALLOWED_HOSTS": "pulse.example.com",
    "DATABASE_URL": "postgres://pulse:pw@db:5432/pulse",
}


@pytest.fixture
def read(tmp_path: Path):
    """Read the given settings in a folder of their own."""

    def read_them(values: dict[str, str] | None = None, **more: str) -> env.Environment:
        return env.read({**(values or {}), **more}, base_dir=tmp_path)

    return read_them


def test_nothing_given_is_an_embedded_run_without_crm(read, tmp_path) -> None:
    got = read()
    assert got.embedded
    assert got.zoho is None
    assert got.home == tmp_path / "var"
    assert got.database["ENGINE"] == "django.db.backends.sqlite3"
    assert got.database["NAME"] == str(tmp_path / "var" / "pulse.sqlite3")
    assert got.redis_url == ""
    assert got.business_time_zone == "Asia/Singapore"
    assert (got.write_back, got.write_back_forced_off) == ("off", False)
    assert (got.delta_minutes, got.sweep_seconds, got.sync_lease_seconds) == (15, 15, 60)


def test_secrets_of_an_embedded_run_are_made_once_and_private(read, tmp_path) -> None:
    first, second = read(), read()
    assert first.secret_key == second.secret_key
    assert first.encryption_keys == second.encryption_keys
    assert len(first.webhook_tokens[0]) <= 50
    Fernet(first.encryption_keys[0])
    assert stat.S_IMODE((tmp_path / "var" / home.SECRETS).stat().st_mode) == 0o600


def test_two_homes_have_different_secrets(read) -> None:
    assert read(PULSE_HOME="one").secret_key != read(PULSE_HOME="two").secret_key


# --- the CRM ---------------------------------------------------------------------------------
@pytest.mark.parametrize("centre", ["us", "eu", "in", "au", "jp", "ca", "sa", "cn", "uk"])
def test_data_centre_sets_both_addresses(read, centre: str) -> None:
    zoho = read(CRM, ZOHO_DC=centre).zoho
    accounts, api = env.DATA_CENTRES[centre]
    assert (zoho.accounts_url, zoho.base_url) == (f"https://{accounts}", f"https://{api}")


def test_canada_signs_in_elsewhere(read) -> None:
    assert read(CRM, ZOHO_DC="ca").zoho.accounts_url == "https://accounts.zohocloud.ca"


def test_explicit_address_wins_over_the_data_centre(read) -> None:
    zoho = read(CRM, ZOHO_DC="eu", ZOHO_BASE_URL="https://sandbox.zohoapis.eu").zoho
    assert zoho.base_url == "https://sandbox.zohoapis.eu"
    assert zoho.accounts_url == "https://accounts.zoho.eu"


@pytest.mark.parametrize(
    ("given", "noticed"),
    [
        ("https://www.zohoapis.com", False),
        ("https://www.zohoapis.com/", False),
        ("https://www.zohoapis.com/crm", False),
        ("https://www.zohoapis.com/crm/v8", False),
        ("https://www.zohoapis.com/crm/v8/", False),
        ("https://www.zohoapis.com/crm/v6", True),
        ("https://www.zohoapis.com/crm/v2.1", True),
    ],
)
def test_version_in_the_address_is_ignored_and_noticed_when_it_differs(
    read, given: str, noticed: bool
) -> None:
    got = read(CRM, ZOHO_BASE_URL=given, ZOHO_ACCOUNTS_URL="https://accounts.zoho.com")
    assert got.zoho.base_url == "https://www.zohoapis.com"
    assert got.zoho.api_version == "v8"
    assert bool(got.notices) is noticed


def test_secrets_are_not_in_the_repr(read) -> None:
    got = read(CRM, ZOHO_DC="us", WEBHOOK_TOKEN="hook-token-hook-token")
    for secret in [*list(CRM.values())[1:], "hook-token", got.secret_key, got.encryption_keys[0]]:
        assert secret not in repr(got)


def test_waiting_times_of_the_client_can_be_changed_singly(read) -> None:
    got = read(CRM, ZOHO_DC="us", ZOHO_PATIENCE="read_s=2.5, tries=3")
    assert got.zoho.patience == {"read_s": 2.5, "tries": 3}


def test_sandbox_writes_back_and_a_real_crm_does_not(read) -> None:
    assert read(CRM, ZOHO_DC="us").write_back == "off"
    assert read(CRM, ZOHO_DC="us", SANDBOX="1").write_back == "on"
    forced = read(CRM, ZOHO_DC="us", SANDBOX="1", WRITE_BACK="off")
    assert (forced.write_back, forced.write_back_forced_off) == ("off", True)


# --- refused ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ZOHO_CLIENT_ID": "x"}, "ZOHO_CLIENT_SECRET and ZOHO_REFRESH_TOKEN are not"),
        ({**CRM, "ZOHO_REFRESH_TOKEN": " "}, "ZOHO_REFRESH_TOKEN is not"),
        ({"ZOHO_DC": "eu"}, "half configured"),
        (CRM, "give ZOHO_DC"),
        ({**CRM, "ZOHO_BASE_URL": "https://www.zohoapis.com"}, "ZOHO_ACCOUNTS_URL is not set"),
        ({**CRM, "ZOHO_ACCOUNTS_URL": "https://accounts.zoho.com"}, "ZOHO_BASE_URL is not set"),
        ({**CRM, "ZOHO_DC": "mars"}, "ZOHO_DC is unknown; write one of us, eu"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_API_VERSION": "v7"}, "ZOHO_API_VERSION is unknown"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_CLIENT_SECRET": "a b"}, "ZOHO_CLIENT_SECRET contains"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_BASE_URL": "zohoapis.com"}, "ZOHO_BASE_URL is no web"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_BASE_URL": "ftp://zohoapis.com"}, "is no web address"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_BASE_URL": "http://www.zohoapis.com"}, "https://"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_BASE_URL": "https://u:p@zohoapis.com"}, "address alone"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_BASE_URL": "https://zohoapis.com/api"}, "path"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_BASE_URL": "https://zohoapis.com:x"}, "no valid address"),
        ({**CRM, "ZOHO_DC": "us", "ZOHO_PATIENCE": "courage=1"}, "ZOHO_PATIENCE takes"),
        ({"ZOHO_FIELD_PROFILE": "mine"}, "ZOHO_FIELD_PROFILE is unknown"),
        ({"RATE_LIMIT_CALLS_PER_MINUTE": "lots"}, "RATE_LIMIT_CALLS_PER_MINUTE is not a number"),
        ({"RATE_LIMIT_CALLS_PER_MINUTE": "0"}, "RATE_LIMIT_CALLS_PER_MINUTE is out of range"),
        ({"RATE_LIMIT_CALLS_PER_MINUTE": "1.5"}, "not a whole number"),
        ({"RATE_LIMIT_CALLS_PER_MINUTE": "nan"}, "out of range"),
        ({"ZOHO_CONCURRENCY": "-1"}, "ZOHO_CONCURRENCY is out of range"),
        ({"WEBHOOK_TOKEN": "x" * 51}, "50 characters"),
        ({"WEBHOOK_TOKEN": "a,b,c"}, "two at most"),
        ({"WEBHOOK_TOKEN": "tökén"}, "WEBHOOK_TOKEN contains"),
        ({"WRITE_BACK": "maybe"}, "WRITE_BACK is unknown; write one of off, preview, on"),
        ({"ENCRYPTION_KEYS": "short"}, "ENCRYPTION_KEYS: key 1 is no Fernet key"),
        ({"ENCRYPTION_KEYS": f"{KEY},short"}, "key 2 is no Fernet key"),
        ({"BUSINESS_TIME_ZONE": "Asia/Atlantis"}, "BUSINESS_TIME_ZONE is no time zone"),
        ({"DATABASE_URL": "mysql://h/d"}, "DATABASE_URL names no database we know"),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL names no database we know"),
        ({"DATABASE_URL": "postgres:///pulse"}, "lacks its host"),
        ({"DATABASE_URL": "postgres://db"}, "lacks its host or database name"),
        ({"DATABASE_URL": "postgres://db:port/pulse"}, "DATABASE_URL is no valid address"),
        ({"DATABASE_URL": "sqlite:////no/such/folder/x"}, "is no place for a database file"),
        ({"DATABASE_URL": "sqlite://"}, "in memory"),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL names no Redis server"),
        ({"REDIS_URL": "redis://"}, "REDIS_URL names no Redis server"),
        ({"REDIS_URL": "redis://h/first"}, "no database number"),
        ({"EMAIL_URL": "carrier-pigeon://coop"}, "EMAIL_URL names no mail transport"),
        ({"EMAIL_URL": "smtp://"}, "EMAIL_URL names no mail transport"),
        ({"APP_BASE_URL": "pulse.example.com"}, "APP_BASE_URL is no web address"),
        ({"CSRF_TRUSTED_ORIGINS": "pulse.example.com"}, "CSRF_TRUSTED_ORIGINS takes origins"),
        ({"ALLOWED_HOSTS": "https://pulse.example.com"}, "ALLOWED_HOSTS takes host names only"),
        ({"API_THROTTLE": "fast"}, "API_THROTTLE is no rate"),
        ({"DEBUG": "perhaps"}, "DEBUG is neither on nor off"),
        ({"PORT": "http"}, "PORT is not a number"),
        ({"PORT": "70000"}, "PORT is out of range"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL is unknown"),
        ({"SECRET_KEY": "two\nlines"}, "SECRET_KEY contains a control character"),
        ({"PULSE_HOME": "/proc/nowhere"}, "PULSE_HOME /proc/nowhere cannot be made"),
    ],
)
def test_unusable_setting_is_one_sentence(read, values: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(values)
    sentence = str(refused.value)
    assert says in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    "values",
    [
        {**CRM, "ZOHO_DC": "us", "ZOHO_CLIENT_SECRET": "hush hush hush"},
        {**CRM, "ZOHO_BASE_URL": "https://u:hush-hush-hush@h"},
        {"DATABASE_URL": "postgres://u:hush-hush-hush@"},
        {"REDIS_URL": "rediss://u:hush-hush-hush@"},
        {"ENCRYPTION_KEYS": "hush-hush-hush"},
        {"WEBHOOK_TOKEN": "hush-hush-hush" * 5},
    ],
)
def test_refusal_does_not_quote_a_secret(read, values: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(values)
    assert "hush" not in str(refused.value)


# --- production ------------------------------------------------------------------------------
def test_production_with_its_own_secrets_starts(read) -> None:
    got = read(PRODUCTION)
    assert not got.embedded
    assert got.allowed_hosts == ("pulse.example.com",)
    assert got.log_format == "json"
    assert got.database["CONN_MAX_AGE"] == 60
    assert got.database["OPTIONS"]["connect_timeout"] == 2


@pytest.mark.parametrize("name", ["SECRET_KEY", "ENCRYPTION_KEYS", "ALLOWED_HOSTS"])
def test_production_without_its_own_secrets_is_refused(read, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is missing"):
        read({**PRODUCTION, name: ""})


def test_debug_explicitly_off_is_production(read) -> None:
    with pytest.raises(ConfigurationError, match="SECRET_KEY is missing"):
        read(DEBUG="0")


@pytest.mark.processes
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_row_17_a_database_that_cannot_be_written_is_named_at_the_start(closed: str) -> None:
    with tempfile.TemporaryDirectory(prefix="pulse-closed-") as name:
        own, folder, file = (Path(name) / part for part in ("own", "data", "data/pulse.sqlite3"))
        Path(name).chmod(0o755)
        folder.mkdir()
        file.touch()
        own.mkdir()
        own.chmod(0o777)
        file.chmod(0o444 if closed == "file" else 0o666)
        folder.chmod(0o555 if closed == "folder" else 0o777)

        def read_as_nobody() -> None:
            if os.getuid() == 0:  # to root every file is open
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            values = {"DATABASE_URL": f"sqlite:///{file}", "PULSE_HOME": str(own), "DEBUG": "on"}
            with pytest.raises(ConfigurationError) as refused:
                env.read(values, base_dir=folder)
            place = str(file if closed == "file" else folder)
            assert f"{place} cannot be written" in str(refused.value)

        assert run_in_child(read_as_nobody) == 0
        folder.chmod(0o777)


def test_supervised_run_brings_its_secrets_whatever_the_database(read) -> None:
    got = read(PULSE_EMBEDDED="1", DATABASE_URL=PRODUCTION["DATABASE_URL"])
    assert got.embedded
    assert got.secret_key


# --- where values come from ------------------------------------------------------------------
def test_env_file_is_read_and_the_environment_wins(read, tmp_path) -> None:
    (tmp_path / ".env").write_text(
        "# a comment\n\nexport PORT=8123  # why\nLOG_LEVEL='DEBUG'\nBUSINESS_TIME_ZONE=UTC\n"
    )
    got = read(LOG_LEVEL="ERROR")
    assert (got.port, got.log_level, got.business_time_zone) == (8123, "ERROR", "UTC")


def test_unreadable_line_of_the_env_file_is_named(read, tmp_path) -> None:
    (tmp_path / ".env").write_text("PORT=8000\nwhat is this\n")
    with pytest.raises(ConfigurationError, match=r"Line 2 of .*\.env"):
        read()


@pytest.fixture
def started(tmp_path: Path) -> None:
    """A home in which a run has left its broker and its sandbox."""
    (tmp_path / "var").mkdir()
    left = {
        **CRM,
        "ZOHO_BASE_URL": "http://127.0.0.1:9999",
        "ZOHO_ACCOUNTS_URL": "http://127.0.0.1:9999",
        "SANDBOX": "1",
        "REDIS_URL": "redis+socket:///tmp/broker.sock",
    }
    home.write_private(tmp_path / "var", home.CONNECTIONS, left)


def test_command_in_another_terminal_joins_the_run_of_its_home(read, started) -> None:
    got = read()
    assert got.sandbox
    assert got.zoho.base_url == "http://127.0.0.1:9999"
    assert got.redis_url == "redis+socket:///tmp/broker.sock"
    assert got.write_back == "on"


def test_real_crm_takes_nothing_from_the_sandbox_of_the_home(read, started) -> None:
    got = read({**CRM, "ZOHO_CLIENT_ID": "1000.REAL"}, ZOHO_DC="eu")
    assert not got.sandbox
    assert got.write_back == "off"
    assert got.zoho.base_url == "https://www.zohoapis.eu"
    assert got.redis_url == "redis+socket:///tmp/broker.sock"


def test_half_given_real_crm_is_not_completed_by_the_sandbox(read, started) -> None:
    with pytest.raises(ConfigurationError, match="half configured"):
        read(ZOHO_CLIENT_ID="1000.REAL")


def test_production_takes_nothing_from_a_home(read, started) -> None:
    got = read(PRODUCTION)
    assert got.zoho is None
    assert got.redis_url == ""


def test_damaged_file_of_a_home_is_named(read, tmp_path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / home.CONNECTIONS).write_text(json.dumps(["no"]))
    with pytest.raises(ConfigurationError, match=r"connections\.json is damaged"):
        read()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("redis://h", "redis://h"),
        ("rediss://:pw@h:6380/1", "rediss://:pw@h:6380/1"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock"),
    ],
)
def test_redis_addresses(read, given: str, kept: str) -> None:
    assert read(REDIS_URL=given).redis_url == kept


def test_example_file_explains_every_setting_and_no_other() -> None:
    text = (Path(env.__file__).resolve().parents[1] / ".env.example").read_text()
    named = re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", text, re.M)
    internal = {"SANDBOX", "PULSE_EMBEDDED"}
    of_compose = ["POSTGRES_PASSWORD", "PULSE_PORT"]
    assert named == [name for name in env.SETTING_NAMES if name not in internal] + of_compose
