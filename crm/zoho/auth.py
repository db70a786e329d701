"""OAuth with the CRM's accounts server: one exchange of refresh token for access token.

Decides how the token reply is read (success is a body with `access_token`, never the status), its
errors, and where the access token may be sent. Leaves when to mint, and sharing, to `tokens`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from requests.auth import AuthBase
from requests.models import PreparedRequest

from crm.zoho.errors import (
    RateLimited,
    Reauthenticate,
    ServerFault,
    ZohoError,
    one_line,
    redact,
)
from crm.zoho.limits import Patience

_TOP_LEVELS = ("com", "eu", "in", "com.au", "jp", "ca", "sa", "com.cn", "uk")
_API_HOSTS = frozenset(f"www.zohoapis.{tld}" for tld in _TOP_LEVELS)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_DAY_S = 86_400
_LIFE_S = 3_600  # of an access token, when the reply does not say


@dataclass(frozen=True)
class Credentials:
    """What identifies our connection. Its secrets are in no repr."""

    accounts_url: str
    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Names the connection in shared state without telling it."""
        return _digest(self.client_id, self.refresh_token, self.accounts_url)

    @property
    def full_fingerprint(self) -> str:
        """Changes with the secret too: a refusal is remembered for exactly these."""
        return _digest(self.fingerprint, self.client_secret)

    @property
    def secrets(self) -> tuple[str, str]:
        return (self.client_secret, self.refresh_token)


@dataclass(frozen=True)
class Token:
    """An access token; times are seconds of the wall clock."""

    value: str = field(repr=False)
    refresh_at: float
    expires_at: float
    api_domain: str = ""
    scope: str = ""


class Answer(Protocol):
    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...


class SendForm(Protocol):
    """One POST of a form, every failure of the network a RetryLater."""

    def __call__(self, url: str, form: Mapping[str, str]) -> Answer: ...


class ZohoAuth(AuthBase):
    """Puts the token on a request. The reply's "Bearer" is misleading: the CRM wants its own."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Zoho-oauthtoken {self._token}"
        return request


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:24]


def is_loopback(url: str) -> bool:
    return (urlsplit(url).hostname or "") in _LOOPBACK


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def api_base(configured: str, api_domain: str) -> tuple[str, bool]:
    """Where calls go: (base, whether `api_domain` is trusted).

    `api_domain` of a token reply decides where the token is sent, so it counts only if it is the
    configured base or one of the CRM's own hosts. A sandbox or developer base stays as configured:
    production must not get what was meant for it.
    """
    base = configured.rstrip("/")
    offered = api_domain.rstrip("/")
    if not offered or origin_of(offered) == origin_of(base):
        return base, True
    parts = urlsplit(offered)
    if parts.scheme == "https" and parts.netloc.lower() in _API_HOSTS:
        ours = (urlsplit(base).hostname or "").lower()
        return (origin_of(offered) if ours in _API_HOSTS else base), True
    return base, is_loopback(offered) and is_loopback(base)


class TokenEndpoint:
    """`mint()`: one access token from the refresh token."""

    def __init__(self, credentials: Credentials, send: SendForm, patience: Patience) -> None:
        self._credentials = credentials
        self._send = send
        self._patience = patience
        self._url = credentials.accounts_url.rstrip("/") + "/oauth/v2/token"
        self.host = urlsplit(credentials.accounts_url).netloc

    def mint(self, now: float) -> Token:
        """A fresh token. Raises Reauthenticate (a person is needed) or RetryLater."""
        credentials = self._credentials
        answer = self._send(
            self._url,
            {
                "refresh_token": credentials.refresh_token,
                "client_id": credentials.client_id,
                "client_secret": credentials.client_secret,
                "grant_type": "refresh_token",
            },
        )
        reply = _json_object(answer.body)
        value = reply.get("access_token")
        if isinstance(value, str) and value and answer.status < 300:
            return self._token(value, reply, now)
        raise self._refusal(answer, reply)

    def _token(self, value: str, reply: Mapping[str, Any], now: float) -> Token:
        life = _life_s(reply)
        return Token(
            value=value,
            refresh_at=now + life * self._patience.token_life_share,
            expires_at=now + life,
            api_domain=str(reply.get("api_domain") or ""),
            scope=str(reply.get("scope") or ""),
        )

    def _refusal(self, answer: Answer, reply: Mapping[str, Any]) -> ZohoError:
        code = one_line(str(reply.get("error") or ""))[:100]
        said = redact(str(reply.get("error_description") or ""), self._credentials.secrets)
        throttled = code.lower().replace("_", " ") == "access denied" or "too many" in said.lower()
        if throttled or answer.status == 429:
            return RateLimited(
                f"The CRM's accounts server {self.host} gives no more tokens for now ({code or 429}"
                "). It goes on by itself in about ten minutes; another program may be using the "
                "same refresh token.",
                code=code or "token_limit",
                status=answer.status,
                crm_message=said,
                retry_after_s=self._patience.mint_blocked_s,
            )
        if answer.status >= 500 or not code:
            return self._no_token(answer)
        return Reauthenticate(
            _ADVICE.get(code, _OTHER_ADVICE).format(host=self.host, code=code),
            code=code,
            status=answer.status,
            crm_message=said,
        )

    def _no_token(self, answer: Answer) -> ZohoError:
        text = redact(answer.body[:4096].decode("utf-8", "replace"), self._credentials.secrets)
        if 300 <= answer.status < 500:
            return Reauthenticate(
                f"{self.host} does not answer like the CRM's accounts server (status "
                f"{answer.status}). Check ZOHO_ACCOUNTS_URL.",
                code=f"http_{answer.status}",
                status=answer.status,
                details={"excerpt": text},
            )
        return ServerFault(
            f"The CRM's accounts server {self.host} gave no token (status {answer.status}). It is "
            "tried again by itself; if this stays, check ZOHO_ACCOUNTS_URL.",
            code="no_token",
            status=answer.status,
            details={"excerpt": text},
        )


_ADVICE = {
    "invalid_client": (
        "The CRM's accounts server {host} does not know this client ({code}). Check "
        "ZOHO_CLIENT_ID, and that ZOHO_DC (or ZOHO_ACCOUNTS_URL) is the data centre of your CRM."
    ),
    "invalid_client_secret": (
        "The CRM's accounts server {host} refuses the client secret ({code}). Check "
        "ZOHO_CLIENT_SECRET; each data centre has its own."
    ),
    "invalid_code": (
        "The CRM's accounts server {host} refuses the refresh token ({code}): it was revoked, or "
        "belongs to another data centre. Connect the CRM again, or check ZOHO_REFRESH_TOKEN and "
        "ZOHO_DC."
    ),
}
_OTHER_ADVICE = (
    "The CRM's accounts server {host} refuses our credentials ({code}). Check ZOHO_CLIENT_ID, "
    "ZOHO_CLIENT_SECRET, ZOHO_REFRESH_TOKEN and ZOHO_DC, or connect the CRM again."
)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _life_s(reply: Mapping[str, Any]) -> float:
    """Seconds a token lives; some replies say milliseconds, some nothing."""
    for name in ("expires_in_sec", "expires_in"):
        try:
            life = float(reply[name])
        except (KeyError, TypeError, ValueError):
            continue
        if 0 < life < float("inf"):
            return life / 1000 if life > _DAY_S else life
    return float(_LIFE_S)
