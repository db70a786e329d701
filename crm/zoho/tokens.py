"""One access token for all processes.

Decides when a token is minted and by whom: the CRM allows ten in ten minutes, and a new one may
kill the oldest still in use, so exactly one process mints, at most once a minute, and everybody
uses its token. Leaves the exchange itself to `auth`.

Kept in shared state under a fingerprint of the credentials: the token (encrypted), the time of the
last mint, and a refusal that only a person can mend.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol

from crm.zoho.auth import Credentials, Token, TokenEndpoint
from crm.zoho.errors import RateLimited, Reauthenticate, RetryLater, Unreachable
from crm.zoho.limits import Patience, Timing
from crm.zoho.state import SharedState

_POLL_S = 0.25
_USABLE_S = 30.0  # a token that lives shorter is not worth a call


class Cipher(Protocol):
    """Encrypts text at rest. `decrypt` raises any exception for text it cannot read."""

    def encrypt(self, text: str) -> str: ...

    def decrypt(self, text: str) -> str: ...


class TokenStore:
    """`current()` for a call; `after_rejection(value)` when the CRM refused that token."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        endpoint: TokenEndpoint,
        shared: SharedState,
        cipher: Cipher,
        timing: Timing,
        patience: Patience,
        wait: Callable[[float], None],
    ) -> None:
        self._endpoint = endpoint
        self._shared = shared
        self._cipher = cipher
        self._timing = timing
        self._patience = patience
        self._wait = wait
        self._guard = threading.Lock()
        self._cached: Token | None = None
        name = credentials.fingerprint
        self._token_name = f"zoho:token:{name}"
        self._minted_name = f"zoho:minted:{name}"
        self._lock_name = f"zoho:minting:{name}"
        self._refused_name = f"zoho:refused:{credentials.full_fingerprint}"

    def current(self) -> Token:
        """A token to use now. Raises Reauthenticate, or RetryLater with the time to wait."""
        token = self._cached
        now = self._timing.wall()
        if token is not None and now < token.refresh_at:
            return token
        with self._guard:
            return self._obtain(rejected=None)

    def after_rejection(self, rejected: str) -> Token:
        """Another token than `rejected`: the one that somebody minted meanwhile, or a new one."""
        with self._guard:
            if self._cached is not None and self._cached.value == rejected:
                self._cached = None
            self._discard(rejected)
            return self._obtain(rejected=rejected)

    def raise_if_refused(self) -> None:
        """Raises Reauthenticate while the CRM's refusal of these credentials is remembered."""
        text = self._shared.get(self._refused_name)
        if not text:
            return
        refusal = json.loads(text)
        raise Reauthenticate(
            refusal["message"],
            code=refusal["code"],
            status=refusal["status"],
            details={"remembered": True},
        )

    def forget_refusal(self) -> None:
        """Ask again although these credentials were refused: a person says they are mended."""
        self._shared.compare_and_set(self._refused_name, self._shared.get(self._refused_name), None)

    def _obtain(self, rejected: str | None) -> Token:
        give_up_at = self._timing.monotonic() + self._patience.exchange_s
        while True:
            known = self._known(rejected)
            if known is not None and self._timing.wall() < known.refresh_at:
                return known
            try:
                minted = self._mint_alone(rejected)
            except RetryLater:
                if known is None:
                    raise
                return known  # due for renewal, but still good
            if minted is not None:
                return minted
            if known is not None:
                return known
            if self._timing.monotonic() >= give_up_at:
                raise RateLimited(
                    "Another process is fetching a token from the CRM and has not finished. It "
                    "goes on by itself.",
                    code="token_wait",
                    retry_after_s=1.0,
                )
            self._wait(_POLL_S)

    def _known(self, rejected: str | None) -> Token | None:
        """The shared token if it can still be used and is not the one refused."""
        token = self._read()
        if token is None or token.value == rejected:
            return None
        if self._timing.wall() >= token.expires_at - min(_USABLE_S, self._life_left_of(token) / 4):
            return None
        self._cached = token
        return token

    def _life_left_of(self, token: Token) -> float:
        """Seconds between renewal and end: short lives (in tests) need a shorter margin."""
        return max(0.0, token.expires_at - token.refresh_at)

    def _mint_alone(self, rejected: str | None) -> Token | None:
        """Mint under the lock of all processes; None if another one holds it."""
        with self._shared.lock(self._lock_name, self._patience.exchange_s + 15) as held:
            if not held:
                return None
            token = self._read()
            now = self._timing.wall()
            if token is not None and token.value != rejected and now < token.refresh_at:
                self._cached = token
                return token
            self.raise_if_refused()
            self._raise_if_minted_lately(now)
            return self._mint(now)

    def _mint(self, now: float) -> Token:
        # Noted before the call: a process that dies in it must not let the next one storm.
        self._shared.put(self._minted_name, repr(now), self._patience.mint_interval_s)
        try:
            token = self._endpoint.mint(now)
        except Unreachable:
            self._shared.compare_and_set(self._minted_name, repr(now), None)
            raise
        except RateLimited as error:
            blocked_s = error.retry_after_s or self._patience.mint_blocked_s
            self._shared.put(self._minted_name, repr(now), blocked_s)
            raise
        except Reauthenticate as error:
            refusal = {"message": error.message, "code": error.code, "status": error.status}
            self._shared.put(self._refused_name, json.dumps(refusal), self._patience.refused_for_s)
            raise
        self._write(token, now)
        self._cached = token
        return token

    def _raise_if_minted_lately(self, now: float) -> None:
        text = self._shared.get(self._minted_name)
        if not text:
            return
        # The value's own life ends the pause; the time in it only says how long that is.
        left = float(text) + self._patience.mint_interval_s - now
        raise RateLimited(
            "The CRM was asked for a token a moment ago; the next one is fetched by itself when "
            "a minute has passed.",
            code="token_pause",
            retry_after_s=min(max(left, 1.0), self._patience.mint_interval_s),
        )

    def _discard(self, rejected: str) -> None:
        """Take the refused token away from everybody, unless a newer one is there already."""
        text = self._shared.get(self._token_name)
        token = self._decode(text)
        if token is not None and token.value == rejected:
            self._shared.compare_and_set(self._token_name, text, None)

    def _read(self) -> Token | None:
        return self._decode(self._shared.get(self._token_name))

    def _decode(self, text: str | None) -> Token | None:
        if not text:
            return None
        try:
            return Token(**json.loads(self._cipher.decrypt(text)))
        except Exception:  # a key that was taken away, or another version's text: mint anew
            return None

    def _write(self, token: Token, now: float) -> None:
        text = self._cipher.encrypt(json.dumps(asdict(token)))
        self._shared.put(self._token_name, text, max(1.0, token.expires_at - now))
