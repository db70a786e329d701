"""From settings to a client: version, transport, tokens, shared state.

Decides which parts belong together and which numbers they get; the only place of this library
that knows Django. Leaves checking the settings to `pipelinepulse.env`.

Settings: `ZOHO` (None: not configured; else an object with base_url, accounts_url, api_version,
client_id, client_secret, refresh_token, rate_limit_per_minute, concurrency, patience),
`ENCRYPTION_KEYS` and `REDIS_URL`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings

from crm import shared_state
from crm.zoho.auth import Credentials, TokenEndpoint
from crm.zoho.breaker import Breaker
from crm.zoho.client import ZohoClient
from crm.zoho.errors import NotConfigured
from crm.zoho.limits import HEAVY_AT_ONCE, Gate, Patience, RateLimiter, Timing
from crm.zoho.slots import SharedSlots
from crm.zoho.state import SharedState
from crm.zoho.tokens import Cipher, TokenStore
from crm.zoho.transport import Transport, wait
from crm.zoho.v6 import ZohoV6
from crm.zoho.v8 import ZohoV8
from crm.zoho.wire import Answer, Wire

_VERSIONS: dict[str, type[ZohoV8]] = {"v8": ZohoV8, "v6": ZohoV6}
_USER_AGENT = "pipeline-pulse"

# How long a caller can wait: a run has minutes, a person who looks at a page has seconds.
_PURPOSES: dict[str, dict[str, float]] = {
    "sync": {},
    "write": {"tries": 3, "total_s": 120.0, "outlast_rest": False},
    "event": {"tries": 2, "total_s": 30.0, "exchange_s": 20.0, "outlast_rest": False},
    "page": {
        "tries": 2,
        "total_s": 10.0,
        "exchange_s": 10.0,
        "read_s": 8.0,
        "last_delay_s": 2.0,
        "outlast_rest": False,
    },
    "check": {
        "tries": 1,
        "total_s": 15.0,
        "exchange_s": 15.0,
        "read_s": 10.0,
        "outlast_rest": False,
    },
}


class FernetCipher:
    """Text at rest: the first key encrypts, all decrypt."""

    def __init__(self, keys: list[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def encrypt(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, text: str) -> str:
        return self._fernet.decrypt(text.encode()).decode()


@dataclass(frozen=True)
class States:
    """Where shared state lives. Tokens and the breaker outlive a broker, permits need speed."""

    durable: SharedState
    fast: SharedState


def client_from_settings(*, purpose: str = "sync", states: States | None = None) -> ZohoClient:
    """A client for one run, call or check; `close()` it. Raises NotConfigured.

    `purpose`: "sync", "write", "event" (a notice: tried again soon), "page" (a person waits: few
    tries) or "check" (one try, and a remembered refusal of the credentials is asked anew).
    """
    transport = _transport_from_settings(purpose, states)
    return _VERSIONS[_configured().api_version](transport)


def raise_if_known_down() -> None:
    """Raises what any call would end with at this moment, without asking the CRM.

    Reauthenticate (these credentials were refused) or BreakerOpen; NotConfigured.
    """
    transport = _transport_from_settings("page", None)
    try:
        transport.raise_if_known_down()
    finally:
        transport.close()


def _configured() -> Any:
    configured = getattr(settings, "ZOHO", None)
    if configured is None:
        raise NotConfigured
    return configured


def _transport_from_settings(purpose: str, states: States | None) -> Transport:
    configured = _configured()
    if states is None:
        states = States(durable=shared_state.durable(), fast=shared_state.fast())
    return build_transport(
        configured,
        states=states,
        cipher=FernetCipher(list(settings.ENCRYPTION_KEYS)),
        purpose=purpose,
    )


def build_client(
    configured: Any,
    *,
    states: States,
    cipher: Cipher,
    purpose: str = "sync",
    timing: Timing | None = None,
) -> ZohoClient:
    """The same from an object like `settings.ZOHO`, with every part given."""
    transport = build_transport(
        configured, states=states, cipher=cipher, purpose=purpose, timing=timing
    )
    return _VERSIONS[configured.api_version](transport)


def build_transport(
    configured: Any,
    *,
    states: States,
    cipher: Cipher,
    purpose: str = "sync",
    timing: Timing | None = None,
) -> Transport:
    """What the client of either version speaks through."""
    timing = timing or Timing()
    patience = _patience(purpose, configured.patience)
    closing = threading.Event()
    pause = partial(wait, timing=timing, closing=closing)
    credentials = Credentials(
        accounts_url=configured.accounts_url.rstrip("/"),
        client_id=configured.client_id,
        client_secret=configured.client_secret,
        refresh_token=configured.refresh_token,
    )
    wire = Wire(patience, connections=configured.concurrency + 2, user_agent=_USER_AGENT)
    endpoint = TokenEndpoint(credentials, _form_sender(wire, credentials.secrets), patience)
    tokens = TokenStore(
        credentials=credentials,
        endpoint=endpoint,
        shared=states.durable,
        cipher=cipher,
        timing=timing,
        patience=patience,
        wait=pause,
    )
    if purpose == "check":
        tokens.forget_refusal()
    limiter = RateLimiter(
        states.fast,
        credentials.fingerprint,
        per_minute=configured.rate_limit_per_minute,
        timing=timing,
        patience=patience,
        wait=pause,
    )
    is_run = purpose in ("sync", "write")
    gate = Gate(configured.concurrency, min(HEAVY_AT_ONCE, configured.concurrency))
    slots = SharedSlots(
        states.fast,
        credentials.fingerprint,
        gate=gate,
        wanted=configured.concurrency if is_run else 1,
        is_run=is_run,
        timing=timing,
        wait=pause,
    )
    base_url = configured.base_url.rstrip("/")
    return Transport(
        base_url=base_url,
        wire=wire,
        tokens=tokens,
        limiter=limiter,
        gate=gate,
        slots=slots,
        breaker=Breaker(states.durable, base_url.split("//")[-1], timing=timing, patience=patience),
        patience=patience,
        timing=timing,
        closing=closing,
        secrets=credentials.secrets,
    )


def _patience(purpose: str, overrides: Mapping[str, float] | None) -> Patience:
    """The purpose's numbers, then what the settings say; a person's limits are never raised."""
    own = _PURPOSES[purpose]
    given = dict(overrides or {})
    merged = {**own, **given}
    for name in own.keys() & given.keys():
        merged[name] = min(own[name], given[name])
    return Patience().with_overrides(merged)


def _form_sender(wire: Wire, secrets: tuple[str, str]) -> Any:
    def send(url: str, form: Mapping[str, str]) -> Answer:
        return wire.exchange("POST", url, data=form, secrets=secrets)

    return send
