"""The environment, read once: every setting is checked here and refused in one sentence.

Decides what a value may look like, what is missing, and which mode the process runs in. What
Django does with the values is decided in `settings.py`. The list of names, with their
explanations, is `.env.example`; a test keeps the two equal.

Where values come from, first found wins: the process's environment, the file `.env` beside
`manage.py`, and (only for a run of `manage.py run` in this PULSE_HOME) what that run found or
started: its broker and its sandbox CRM.

Modes:
- *embedded*: started by `manage.py run`, or with no database server named and DEBUG not set.
  Secrets that are not given are made once and kept in PULSE_HOME.
- *production*: a DATABASE_URL that names a server, or DEBUG explicitly off. Brings its own secrets
  and host names.
- *debug*: DEBUG on.
"""

import os
import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import environ
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from crm.zoho.limits import Patience
from pipelinepulse import home as pulse_home

# (accounts host, API host) per data centre, Zoho v8 docs "Multi-DC".
DATA_CENTRES = {
    "us": ("accounts.zoho.com", "www.zohoapis.com"),
    "eu": ("accounts.zoho.eu", "www.zohoapis.eu"),
    "in": ("accounts.zoho.in", "www.zohoapis.in"),
    "au": ("accounts.zoho.com.au", "www.zohoapis.com.au"),
    "jp": ("accounts.zoho.jp", "www.zohoapis.jp"),
    "ca": ("accounts.zohocloud.ca", "www.zohoapis.ca"),
    "sa": ("accounts.zoho.sa", "www.zohoapis.sa"),
    "cn": ("accounts.zoho.com.cn", "www.zohoapis.com.cn"),
    "uk": ("accounts.zoho.uk", "www.zohoapis.uk"),
}
API_VERSIONS = ("v8", "v6")
CREDENTIALS = ("ZOHO_CLIENT_ID", "ZOHO_CLIENT_SECRET", "ZOHO_REFRESH_TOKEN")
ADDRESSES = ("ZOHO_DC", "ZOHO_BASE_URL", "ZOHO_ACCOUNTS_URL")
CRM_SETTINGS = CREDENTIALS + ADDRESSES

# Every name that is read, in the order of `.env.example`.
SETTING_NAMES = (
    "SECRET_KEY",
    "ENCRYPTION_KEYS",
    "DEBUG",
    "ALLOWED_HOSTS",
    "CSRF_TRUSTED_ORIGINS",
    "APP_BASE_URL",
    "PORT",
    "PULSE_HOME",
    "DATABASE_URL",
    "REDIS_URL",
    "EMAIL_URL",
    "BUSINESS_TIME_ZONE",
    "API_THROTTLE",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "STATIC_HASHED",
    "ZOHO_DC",
    "ZOHO_BASE_URL",
    "ZOHO_ACCOUNTS_URL",
    "ZOHO_API_VERSION",
    "ZOHO_CLIENT_ID",
    "ZOHO_CLIENT_SECRET",
    "ZOHO_REFRESH_TOKEN",
    "ZOHO_FIELD_PROFILE",
    "WEBHOOK_TOKEN",
    "WEBHOOK_PER_SECOND",
    "RATE_LIMIT_CALLS_PER_MINUTE",
    "ZOHO_CONCURRENCY",
    "ZOHO_PATIENCE",
    "WRITE_BACK",
    "DELTA_MINUTES",
    "SYNC_LEASE_SECONDS",
    "SYNC_HEARTBEAT_SECONDS",
    "SWEEP_SECONDS",
    "SANDBOX_OPTIONS",
    "SANDBOX",
    "PULSE_EMBEDDED",
)


# Two years of a consultancy, and now and then a change, so that there is something to see.
SANDBOX_OPTIONS = "--seed 7 --deals 2000 --life 6"


class ConfigurationError(Exception):
    """A setting that cannot be used; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class ZohoSettings:
    """How to reach the CRM. `base_url` has no `/crm/vN`; secrets stay out of its repr."""

    base_url: str
    accounts_url: str
    api_version: str
    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)
    rate_limit_per_minute: int
    concurrency: int
    # Waiting times that differ from the client's own (crm.zoho.limits.Patience).
    patience: Mapping[str, float]


@dataclass(frozen=True)
class Environment:
    """All values, checked. `notices` are sentences about what was ignored."""

    embedded: bool
    debug: bool
    sandbox: bool
    home: Path
    secret_key: str = field(repr=False)
    encryption_keys: tuple[str, ...] = field(repr=False)
    webhook_tokens: tuple[str, ...] = field(repr=False)
    webhook_per_second: int
    allowed_hosts: tuple[str, ...]
    csrf_trusted_origins: tuple[str, ...]
    app_base_url: str
    port: int
    database: dict[str, Any] = field(repr=False)
    redis_url: str = field(repr=False)
    email: dict[str, Any] = field(repr=False)
    business_time_zone: str
    log_level: str
    log_format: str
    static_hashed: bool
    api_throttle: str | None
    zoho: ZohoSettings | None
    zoho_field_profile: str
    write_back: str
    write_back_forced_off: bool
    sync_lease_seconds: float
    sync_heartbeat_seconds: float
    sweep_seconds: float
    delta_minutes: int
    sandbox_options: str
    notices: tuple[str, ...]
    # Names that were not given, but come from what the run of this home started.
    joined: frozenset[str]


def read_env_file(path: Path) -> dict[str, str]:
    """`KEY=value` lines of a `.env` file; comments, blank lines, quotes and `export` are allowed.

    A missing file is an empty one. Raises ConfigurationError naming the line it cannot read.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"{path} cannot be read as text; mend or remove it.") from None
    values = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            raise ConfigurationError(f"Line {number} of {path} is not of the form NAME=value.")
        values[name.strip()] = _unquoted(value.strip())
    return values


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.sub(r"\s+#.*$", "", value)


class Reader:
    """Typed access to text values; an empty value counts as absent."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name: value.strip() for name, value in values.items() if value.strip()}
        self.notices: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name, default)
        if any(ord(char) < 32 or ord(char) == 127 for char in value):
            raise ConfigurationError(f"{name} contains a control character; write it on one line.")
        return value

    def secret(self, name: str) -> str:
        """A credential: printable ASCII without spaces, never quoted in a message."""
        value = self.text(name)
        if not re.fullmatch(r"[!-~]*", value):
            raise ConfigurationError(
                f"{name} contains a space or a character that no such value has; copy it again."
            )
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.text(name).lower()
        if not value:
            return default
        if value in {"1", "true", "yes", "on"}:
            return True
        if value in {"0", "false", "no", "off"}:
            return False
        raise ConfigurationError(f"{name} is neither on nor off; write 1 or 0.")

    def number(self, name: str, *, default: float, least: float, most: float) -> float:
        value = self.text(name)
        try:
            number = float(value) if value else float(default)
        except ValueError:
            raise ConfigurationError(
                f"{name} is not a number; write one from {least:g} to {most:g}."
            ) from None
        if not least <= number <= most:
            raise ConfigurationError(f"{name} is out of range; write {least:g} to {most:g}.")
        return number

    def whole(self, name: str, *, default: int, least: int, most: int) -> int:
        number = self.number(name, default=default, least=least, most=most)
        if number != int(number):
            raise ConfigurationError(f"{name} is not a whole number; write {least} to {most}.")
        return int(number)

    def choice(self, name: str, choices: tuple[str, ...], *, default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise ConfigurationError(f"{name} is unknown; write one of {', '.join(choices)}.")
        return value

    def items(self, name: str) -> tuple[str, ...]:
        return tuple(item for part in self.text(name).split(",") if (item := part.strip()))

    def web_address(self, name: str, *, plain_http: bool = False) -> str:
        """An absolute http(s) address without user, query or fragment, or an empty text.

        Plain http is accepted for this machine and for names without a dot (a neighbour in the
        same compose network), or anywhere if the caller says so.
        """
        value = self.text(name)
        if not value:
            return ""
        parts = _split(name, value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError(f"{name} is no web address; write it as https://host.")
        if parts.username or parts.password or parts.query or parts.fragment or " " in value:
            raise ConfigurationError(
                f"{name} must be an address alone: no user, password, query or fragment."
            )
        if parts.scheme == "http" and not plain_http and not _is_near(parts.hostname):
            raise ConfigurationError(
                f"{name} must start with https://: tokens are sent to that address."
            )
        return value.rstrip("/")


def _split(name: str, value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises on a port that is no number
    except ValueError:
        raise ConfigurationError(f"{name} is no valid address; check its host and port.") from None
    return parts


def _is_near(host: str) -> bool:
    return "." not in host or host.startswith("127.") or host == "::1"


def read(environment: Mapping[str, str], *, base_dir: Path) -> Environment:
    """Check every setting. Makes PULSE_HOME and, in embedded mode, its secrets.

    Raises ConfigurationError with one sentence for the first thing that is wrong.
    """
    values = {**read_env_file(base_dir / ".env"), **environment}
    reader = Reader(values)
    home = _home(reader, base_dir)
    run_by_supervisor = reader.flag("PULSE_EMBEDDED", default=False)
    debug = reader.flag("DEBUG", default=False)
    own_server = not reader.text("DATABASE_URL", "sqlite:").startswith("sqlite:")
    embedded = run_by_supervisor or (not own_server and "DEBUG" not in reader)
    joined = _joined(values, home) if embedded else {}
    reader = Reader({**values, **joined})
    own = _own_secrets(home) if embedded or debug else {}
    sandbox = reader.flag("SANDBOX", default=False)
    port = reader.whole("PORT", default=8000, least=1, most=65535)
    app_base_url = reader.web_address("APP_BASE_URL", plain_http=True) or f"http://127.0.0.1:{port}"
    return Environment(
        embedded=embedded,
        debug=debug,
        sandbox=sandbox,
        home=home,
        webhook_tokens=_webhook_tokens(reader, own),
        webhook_per_second=reader.whole("WEBHOOK_PER_SECOND", default=600, least=1, most=1_000_000),
        csrf_trusted_origins=_trusted_origins(reader, app_base_url),
        app_base_url=app_base_url,
        port=port,
        database=_database(reader, home, base_dir),
        redis_url=_redis_url(reader),
        email=_email(reader),
        business_time_zone=_time_zone(reader),
        log_level=reader.choice("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO"),
        log_format=reader.choice(
            "LOG_FORMAT", ("console", "json"), default="console" if embedded or debug else "json"
        ),
        static_hashed=reader.flag("STATIC_HASHED", default=not debug),
        api_throttle=_throttle(reader),
        zoho=_zoho(reader),
        zoho_field_profile=reader.choice(
            "ZOHO_FIELD_PROFILE", ("auto", "standard", "och"), default="auto"
        ),
        write_back=reader.choice(
            "WRITE_BACK", ("off", "preview", "on"), default="on" if sandbox else "off"
        ),
        write_back_forced_off=reader.text("WRITE_BACK") == "off",
        sync_lease_seconds=reader.number("SYNC_LEASE_SECONDS", default=60, least=0.1, most=3600),
        sync_heartbeat_seconds=reader.number(
            "SYNC_HEARTBEAT_SECONDS", default=10, least=0.05, most=600
        ),
        sweep_seconds=reader.number("SWEEP_SECONDS", default=15, least=1, most=3600),
        delta_minutes=reader.whole("DELTA_MINUTES", default=15, least=1, most=1440),
        sandbox_options=reader.text("SANDBOX_OPTIONS", SANDBOX_OPTIONS),
        notices=tuple(reader.notices),
        joined=frozenset(joined),
        # Last: what is wrong in a value is said before what production lacks.
        secret_key=_secret_key(reader, own),
        encryption_keys=_encryption_keys(reader, own),
        allowed_hosts=_allowed_hosts(reader, local=embedded or debug, app_base_url=app_base_url),
    )


def _home(reader: Reader, base_dir: Path) -> Path:
    home = (base_dir / Path(reader.text("PULSE_HOME", "var")).expanduser()).resolve()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        raise ConfigurationError(
            f"PULSE_HOME {home} cannot be made; name a folder that you may write to."
        ) from None
    return home


def _joined(values: Mapping[str, str], home: Path) -> dict[str, str]:
    """What is not given but was started by the run of this home: its broker, its sandbox.

    CRM settings are taken from there only as a whole: a real CRM's never mix with the sandbox's.
    """
    try:
        connections = pulse_home.read_private(home, pulse_home.CONNECTIONS)
    except (OSError, ValueError):
        raise ConfigurationError(
            f"{home / pulse_home.CONNECTIONS} is damaged; remove it and start again."
        ) from None
    given = {name for name, value in values.items() if value.strip()}
    if given.intersection(CRM_SETTINGS):
        given.update({*CRM_SETTINGS, "SANDBOX"})
    return {name: value for name, value in connections.items() if name not in given}


def _own_secrets(home: Path) -> dict[str, str]:
    try:
        return pulse_home.secrets_of(home)
    except ValueError:
        raise ConfigurationError(
            f"{home / pulse_home.SECRETS} is damaged; restore it, or give SECRET_KEY and "
            "ENCRYPTION_KEYS."
        ) from None
    except OSError:
        raise ConfigurationError(
            f"PULSE_HOME {home} is not writable; name a folder that you may write to."
        ) from None


def _secret_key(reader: Reader, own: Mapping[str, str]) -> str:
    given = reader.text("SECRET_KEY") or own.get("secret_key", "")
    if not given:
        raise ConfigurationError(
            "SECRET_KEY is missing: a production start needs its own long random text."
        )
    return given


def _encryption_keys(reader: Reader, own: Mapping[str, str]) -> tuple[str, ...]:
    keys = reader.items("ENCRYPTION_KEYS") or tuple(filter(None, [own.get("encryption_key")]))
    if not keys:
        raise ConfigurationError(
            "ENCRYPTION_KEYS is missing: a production start needs its own Fernet key "
            "(32 random bytes in URL-safe base64)."
        )
    for number, key in enumerate(keys, 1):
        try:
            Fernet(key.encode())
        except ValueError:
            raise ConfigurationError(
                f"ENCRYPTION_KEYS: key {number} is no Fernet key (32 random bytes in URL-safe "
                "base64); several are separated by commas."
            ) from None
    return keys


def _webhook_tokens(reader: Reader, own: Mapping[str, str]) -> tuple[str, ...]:
    reader.secret("WEBHOOK_TOKEN")
    tokens = reader.items("WEBHOOK_TOKEN") or tuple(filter(None, [own.get("webhook_token")]))
    if len(tokens) > 2:
        raise ConfigurationError(
            "WEBHOOK_TOKEN takes the token and, while rotating, the previous one: two at most."
        )
    if any(len(token) > 50 for token in tokens):
        raise ConfigurationError(
            "WEBHOOK_TOKEN is longer than the 50 characters that the CRM keeps; shorten it."
        )
    return tokens


def _allowed_hosts(reader: Reader, *, local: bool, app_base_url: str) -> tuple[str, ...]:
    hosts = reader.items("ALLOWED_HOSTS")
    for host in hosts:
        if not re.fullmatch(r"\*|\.?[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]", host):
            raise ConfigurationError(
                "ALLOWED_HOSTS takes host names only, separated by commas: no scheme, port or path."
            )
    if hosts:
        return hosts
    if not local:
        raise ConfigurationError(
            "ALLOWED_HOSTS is missing: a production start needs the host names it is reached by."
        )
    own_host = urlsplit(app_base_url).hostname or "127.0.0.1"
    return tuple(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", own_host]))


def _trusted_origins(reader: Reader, app_base_url: str) -> tuple[str, ...]:
    origins = reader.items("CSRF_TRUSTED_ORIGINS")
    for origin in origins:
        parts = _split("CSRF_TRUSTED_ORIGINS", origin)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
            raise ConfigurationError(
                "CSRF_TRUSTED_ORIGINS takes origins such as https://pulse.example.com, "
                "separated by commas."
            )
    parts = urlsplit(app_base_url)
    own = f"{parts.scheme}://{parts.netloc}"
    return tuple(dict.fromkeys([*(origin.rstrip("/") for origin in origins), own]))


def _database(reader: Reader, home: Path, base_dir: Path) -> dict[str, Any]:
    url = reader.text("DATABASE_URL") or f"sqlite:///{home / 'pulse.sqlite3'}"
    parts = _split("DATABASE_URL", url)
    if parts.scheme in {"postgres", "postgresql"}:
        return _postgres(url, parts)
    if parts.scheme == "sqlite":
        return _sqlite(url, base_dir)
    raise ConfigurationError(
        "DATABASE_URL names no database we know; write postgres://user:password@host/name "
        "or sqlite:///path."
    )


def _postgres(url: str, parts: SplitResult) -> dict[str, Any]:
    config = environ.Env.db_url_config(url)
    if not config["NAME"] or not (parts.hostname or config.get("HOST")):
        raise ConfigurationError(
            "DATABASE_URL lacks its host or database name; write "
            "postgres://user:password@host:5432/name."
        )
    # A server that is away must cost a page two seconds, not the system's two minutes.
    config["OPTIONS"] = {"connect_timeout": 2, **config.get("OPTIONS", {})}
    config["CONN_MAX_AGE"] = 60
    config["CONN_HEALTH_CHECKS"] = True
    return config


def _sqlite(url: str, base_dir: Path) -> dict[str, Any]:
    config = environ.Env.db_url_config(url)
    if config["NAME"] == ":memory:":
        raise ConfigurationError(
            "DATABASE_URL names a database in memory, which web and worker cannot share; "
            "write sqlite:///path."
        )
    path = (base_dir / config["NAME"]).resolve()
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigurationError(f"DATABASE_URL: {path} is no place for a database file.")
    # The folder too: beside its file the database keeps its journal.
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise ConfigurationError(
                f"DATABASE_URL: {place} cannot be written by this user; the database needs its "
                "file and the folder of it writable."
            )
    config["NAME"] = str(path)
    # Measured: without these, writers in web and worker refuse each other's locks.
    config["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;"
        "PRAGMA journal_size_limit=27103364;PRAGMA cache_size=-16000;"
        "PRAGMA wal_autocheckpoint=4000;",
    }
    return config


def _redis_url(reader: Reader) -> str:
    """As the broker takes it: redis://, rediss:// or redis+socket://; empty without one."""
    url = reader.text("REDIS_URL")
    if not url:
        return ""
    if url.startswith("unix://"):
        url = "redis+socket://" + url.removeprefix("unix://")
    parts = _split("REDIS_URL", url)
    is_server = parts.scheme in {"redis", "rediss"} and parts.hostname
    is_socket = parts.scheme == "redis+socket" and parts.path.startswith("/")
    if not is_server and not is_socket:
        raise ConfigurationError(
            "REDIS_URL names no Redis server; write redis://host:6379/0 or unix:///path/to/socket."
        )
    if is_server and not re.fullmatch(r"/?\d*", parts.path):
        raise ConfigurationError("REDIS_URL ends in no database number; write redis://host:6379/0.")
    return url


def _email(reader: Reader) -> dict[str, Any]:
    url = reader.text("EMAIL_URL") or "consolemail://"
    parts = _split("EMAIL_URL", url)
    try:
        config = environ.Env.email_url_config(url)
    except (ImproperlyConfigured, ValueError):
        config = {}
    if not config or (parts.scheme.startswith("smtp") and not parts.hostname):
        raise ConfigurationError(
            "EMAIL_URL names no mail transport we know; write smtp+tls://user:password@host:587, "
            "or consolemail:// to print mails."
        )
    return config


def _time_zone(reader: Reader) -> str:
    name = reader.text("BUSINESS_TIME_ZONE", "Asia/Singapore")
    if name not in zoneinfo.available_timezones():
        raise ConfigurationError(
            "BUSINESS_TIME_ZONE is no time zone; write a name such as Asia/Singapore."
        )
    return name


def _throttle(reader: Reader) -> str | None:
    value = reader.text("API_THROTTLE", "600/min")
    if value == "off":
        return None
    if not re.fullmatch(r"[1-9]\d{0,6}/(s|sec|second|m|min|minute|h|hour|d|day)", value):
        raise ConfigurationError("API_THROTTLE is no rate; write calls per time, as 600/min.")
    return value


def _zoho(reader: Reader) -> ZohoSettings | None:
    profile_free = [name for name in CRM_SETTINGS if name in reader]
    api_version = reader.choice("ZOHO_API_VERSION", API_VERSIONS, default="v8")
    rate_limit = reader.whole("RATE_LIMIT_CALLS_PER_MINUTE", default=100, least=1, most=10_000_000)
    concurrency = reader.whole("ZOHO_CONCURRENCY", default=8, least=1, most=100)
    patience = _patience(reader)
    if not profile_free:
        return None
    missing = [name for name in CREDENTIALS if name not in reader]
    if missing:
        raise ConfigurationError(
            f"The CRM is half configured: {profile_free[0]} is set but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not; give them all, or none."
        )
    accounts_url, base_url = _zoho_addresses(reader, api_version)
    return ZohoSettings(
        base_url=base_url,
        accounts_url=accounts_url,
        api_version=api_version,
        client_id=reader.secret("ZOHO_CLIENT_ID"),
        client_secret=reader.secret("ZOHO_CLIENT_SECRET"),
        refresh_token=reader.secret("ZOHO_REFRESH_TOKEN"),
        rate_limit_per_minute=rate_limit,
        concurrency=concurrency,
        patience=patience,
    )


def _zoho_addresses(reader: Reader, api_version: str) -> tuple[str, str]:
    """(accounts, API base without /crm/vN): explicit addresses win over the data centre's."""
    accounts_url = reader.web_address("ZOHO_ACCOUNTS_URL")
    base_url = _without_version(reader, reader.web_address("ZOHO_BASE_URL"), api_version)
    if "ZOHO_DC" in reader:
        accounts_host, api_host = DATA_CENTRES[
            reader.choice("ZOHO_DC", tuple(DATA_CENTRES), default="us")
        ]
        return accounts_url or f"https://{accounts_host}", base_url or f"https://{api_host}"
    if not accounts_url or not base_url:
        lacking = "ZOHO_ACCOUNTS_URL" if base_url else "ZOHO_BASE_URL"
        raise ConfigurationError(
            "The CRM is half configured: give ZOHO_DC"
            f" ({' '.join(DATA_CENTRES)}), or both ZOHO_BASE_URL and ZOHO_ACCOUNTS_URL"
            f" ({lacking} is not set)."
        )
    return accounts_url, base_url


def _without_version(reader: Reader, base_url: str, api_version: str) -> str:
    found = re.fullmatch(r"(https?://[^/]+)(?:/crm(?:/(v\d+(?:\.\d+)?))?)?", base_url)
    if base_url and not found:
        raise ConfigurationError(
            "ZOHO_BASE_URL has a path that is not the CRM's; write https://host, with or without "
            "/crm/v8."
        )
    if not found:
        return ""
    if found[2] and found[2] != api_version:
        reader.notices.append(
            f"ZOHO_BASE_URL says {found[2]}, ZOHO_API_VERSION says {api_version}: "
            f"{api_version} is used."
        )
    return found[1]


def _patience(reader: Reader) -> dict[str, float]:
    """Single waiting times of the CRM client, as `read_s=5,tries=2`; the rest keeps its default."""
    known = sorted(setting.name for setting in fields(Patience))
    patience: dict[str, float] = {}
    for item in reader.items("ZOHO_PATIENCE"):
        name, _, value = item.partition("=")
        if name not in known or not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value):
            raise ConfigurationError(
                f"ZOHO_PATIENCE takes name=number, separated by commas; names: {', '.join(known)}."
            )
        patience[name] = float(value) if "." in value else int(value)
    return patience
