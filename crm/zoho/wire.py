"""One HTTP exchange, bounded in time and size.

Decides: connect, read and whole-answer deadlines (a byte a second passes every read timeout, so
each receive is held to the deadline of the exchange), the size cap, gzip, and that no redirect is
followed. Leaves retrying and the meaning of an answer to `transport`.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import get_environ_proxies
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from crm.zoho.auth import is_loopback
from crm.zoho.download import Download
from crm.zoho.errors import BadPayload, Unreachable, ZohoError, redact
from crm.zoho.limits import Patience
from crm.zoho.paging import bad_payload

_PIECE = 256 * 1024
_running = threading.local()  # .deadline, .read_s of the exchange that this thread is in


@dataclass(frozen=True)
class Answer:
    """A whole answer: decoded body, headers, and the CRM's clock if it told it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed_ms: float
    framed: bool  # its end was marked (length, chunks, gzip), so that a cut would have shown
    saved: int | None = None  # bytes that went into the file of a download instead of `body`

    @property
    def date(self) -> datetime | None:
        return http_date(self.headers.get("Date"))


def http_date(text: str | None) -> datetime | None:
    """An HTTP date as aware UTC, or None."""
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        return None


class _DeadlineReader(io.RawIOBase):
    """A socket's bytes; each receive waits no longer than what is left of the exchange."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = _running.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the whole answer took too long")
        self._sock.settimeout(min(left, _running.read_s))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()  # type: ignore[attr-defined]
        self.fp = io.BufferedReader(_DeadlineReader(raw, sock), 64 * 1024)


class _Connection(HTTPConnection):
    response_class = _DeadlineResponse  # type: ignore[assignment]


class _SecureConnection(HTTPSConnection):
    response_class = _DeadlineResponse  # type: ignore[assignment]


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _DeadlineAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._use_deadlines(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        self._use_deadlines(manager)
        return manager

    @staticmethod
    def _use_deadlines(manager: Any) -> None:
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


class Wire:
    """Exchanges over kept-alive connections; safe to use from many threads."""

    def __init__(self, patience: Patience, *, connections: int, user_agent: str) -> None:
        self._patience = patience
        self._user_agent = user_agent
        # No hidden retries below: limiter, breaker and counters must know of every request.
        self._adapter = _DeadlineAdapter(
            pool_connections=4, pool_maxsize=max(1, connections), max_retries=0
        )
        self._sessions = threading.local()

    def exchange(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: AuthBase | None = None,
        secrets: tuple[str, ...] = (),
        into: Download | None = None,
    ) -> Answer:
        """The whole answer; a file goes into `into`, at most as big and as long as that says.

        Raises Unreachable, or BadPayload if it is too big to be taken.
        """
        patience = self._patience
        started = time.monotonic()
        _running.deadline = started + (into.whole_s if into else patience.exchange_s)
        _running.read_s = patience.read_s
        host = urlsplit(url).netloc
        try:
            with self._session(url).request(
                method,
                url,
                params=params,
                data=data,
                headers={**self._headers(url), **(headers or {})},
                auth=auth,
                timeout=(patience.connect_s, patience.read_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                file = into if into and _is_file(response) else None
                body, framed = self._read(response, file)
                return Answer(
                    status=response.status_code,
                    headers=response.headers,
                    body=body,
                    elapsed_ms=(time.monotonic() - started) * 1000,
                    framed=framed,
                    saved=file.size if file else None,
                )
        except ZohoError:
            raise
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,
        ) as error:
            raise unreachable(host, error, patience, secrets) from None

    def close(self) -> None:
        self._adapter.close()

    def _session(self, url: str) -> requests.Session:
        session: requests.Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = requests.Session()
            session.mount("https://", self._adapter)
            session.mount("http://", self._adapter)
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            # The environment is read once, not per call, and never for a .netrc.
            session.trust_env = False
            session.verify = (
                os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
            )
            if not is_loopback(url):
                session.proxies.update(get_environ_proxies(url))
            self._sessions.session = session
        return session

    def _headers(self, url: str) -> dict[str, str]:
        return {
            "Accept": "application/json",
            # Packing pays across a network only.
            "Accept-Encoding": "identity" if is_loopback(url) else "gzip",
            "User-Agent": self._user_agent,
        }

    def _read(self, response: requests.Response, file: Download | None) -> tuple[bytes, bool]:
        headers = response.headers
        cap = file.max_bytes if file else self._patience.max_body_bytes
        length = headers.get("Content-Length", "")
        if length.isdigit() and int(length) > cap:
            response.raw.close()
            raise bad_payload(f"it is bigger than {cap} bytes", status=response.status_code)
        encoding = headers.get("Content-Encoding", "").strip().lower()
        unpack = _unpacker(encoding, response.status_code)
        # A body of known length comes in one piece: joining would hold each body twice.
        is_known = length.isdigit() and unpack is None and file is None
        at_once = int(length) if is_known else _PIECE
        pieces: list[bytes] = []
        size = 0
        if file is not None:
            file.begin()
        while piece := response.raw.read(max(at_once, 1), decode_content=False):
            if unpack is not None:
                try:
                    piece = unpack.decompress(piece, cap + 1 - size)
                except zlib.error:
                    raise bad_payload("its packing is broken") from None
            size += len(piece)
            if size > cap or (unpack is not None and unpack.unconsumed_tail):
                response.raw.close()
                raise bad_payload(f"it is bigger than {cap} bytes", status=response.status_code)
            if file is not None:
                file.write(piece)
            else:
                pieces.append(piece)
        if unpack is not None and size and not unpack.eof:
            raise bad_payload("it was cut off", status=response.status_code)
        framed = (
            length.isdigit()
            or unpack is not None
            or "chunked" in headers.get("Transfer-Encoding", "").lower()
        )
        return b"".join(pieces), framed


def _is_file(response: requests.Response) -> bool:
    kind = response.headers.get("Content-Type", "").lower()
    return response.status_code == 200 and "json" not in kind and "text/html" not in kind


def _unpacker(encoding: str, status: int) -> Any:
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out by the header which of the two
    raise bad_payload(f"its packing {redact(encoding)} was not asked for", status=status)


# ---------------------------------------------------------------- why there was no answer

_ERRNO_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.ENETUNREACH: "network unreachable",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ETIMEDOUT: "timed out",
}


def unreachable(
    host: str, error: BaseException, patience: Patience, secrets: tuple[str, ...] = ()
) -> Unreachable | BadPayload:
    """The error for an exchange that broke, in words."""
    chain = list(_causes(error))
    why, was_sent = _why(chain, patience)
    return Unreachable(
        f"The CRM at {host} does not answer ({why}). Check ZOHO_BASE_URL, ZOHO_ACCOUNTS_URL and "
        "the network; it goes on by itself when the CRM is back.",
        code="unreachable",
        was_sent=was_sent,
        details={"reason": why, "error": redact(str(error), secrets)[:300]},
    )


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all that it wraps: by cause, context, arguments and `reason`."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 30:
        item = waiting.pop(0)
        if not isinstance(item, BaseException) or any(item is known for known in found):
            continue
        found.append(item)
        waiting += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return found


def _why(chain: list[BaseException], patience: Patience) -> tuple[str, bool]:
    """(words, whether the request may have reached the CRM)."""

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(item, kinds) for item in chain)

    new_connection = has(
        requests.ConnectTimeout,
        urllib3.exceptions.NewConnectionError,
        urllib3.exceptions.ConnectTimeoutError,
    )
    if has(socket.gaierror, urllib3.exceptions.NameResolutionError):
        return "its name is not known", False
    if has(requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
        return "the address is malformed", False
    if has(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError):
        return "the proxy refuses", False
    for item in chain:
        if isinstance(item, ssl.SSLCertVerificationError):
            return "its TLS certificate is not trusted", False
    for item in chain:
        if isinstance(item, OSError) and item.errno in _ERRNO_WORDS:
            return _ERRNO_WORDS[item.errno], not new_connection
    if has(requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError):
        return f"no connection within {patience.connect_s:g} s", False
    if has(TimeoutError, requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
        return (
            f"no whole answer within {patience.read_s:g} to {patience.exchange_s:g} s",
            not new_connection,
        )
    if has(http.client.IncompleteRead, urllib3.exceptions.IncompleteRead):
        return "the answer was cut off", True
    if has(ssl.SSLError, requests.exceptions.SSLError):
        return "TLS failed", True
    if has(http.client.RemoteDisconnected, http.client.BadStatusLine):
        return "connection closed without an answer", True
    return "the connection broke", not new_connection
