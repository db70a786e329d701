"""Page tokens: a place in a list, bound to the request that made it, for 24 hours.

A token means an offset, as far as anyone knows of the real CRM, so a deletion between two pages
shifts what follows. Where nothing was written since it was made, the same place is found quickly
from the key of the last record. Tokens carry all they need and are signed.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import base64
import hashlib
import hmac
import json
import secrets
import struct
from dataclasses import dataclass, replace

from crm.sandbox.clock import parse_instant, text_of
from crm.sandbox.errors import ApiError, invalid_data
from crm.sandbox.fragments import quoted, table_of, to_fragment
from crm.sandbox.store import Page, Store

TOKEN_RECORDS = 100_000
TOKEN_LIFE_S = 86_400


@dataclass(frozen=True)
class ListCall:
    """A list request, checked: what, in which order, from where."""

    module: str
    names: tuple[str, ...]
    per_page: int
    sort_by: str
    descending: bool
    ids: tuple[int, ...]
    converted: str
    since: str | None
    approved: str
    view: str | None
    offset: int
    after: tuple[str, int] | None

    def binding(self) -> bytes:
        """What a page token is bound to."""
        parts = (
            self.module,
            self.names,
            self.per_page,
            self.sort_by,
            self.descending,
            self.ids,
            self.converted,
            self.since,
            self.approved,
            self.view,
        )
        return hashlib.sha256(repr(parts).encode()).digest()[:8]


_TOKEN = struct.Struct(">IIIqq8s")
_SIGNATURE = 8


def make_token(store: Store, call: ListCall, page: Page, version: int, expires: int) -> str:
    """The token of what follows this page; `version` is the module's before it was read."""
    with store.reader() as sql:
        last = json.loads(page.body[page.body.rfind(b",\n") + 1 :])
        last_id = int(last["id"])
        moment = 0
        if call.sort_by != "id":
            found = sql.execute(
                f"select {quoted(call.sort_by)} from {table_of(call.module)} where id=?", (last_id,)
            ).fetchone()
            instant = parse_instant(json.loads(found[0])) if found and found[0] else None
            moment = int(instant) if instant is not None else -1
    return _signed(
        store, _TOKEN.pack(expires, version, call.offset + page.count, last_id, moment,
                           call.binding()),
    )  # fmt: skip


def previous_token(store: Store, call: ListCall) -> str | None:
    """The token of the page before this one; none before the first."""
    if call.offset < call.per_page:
        return None
    expires = int(store.clock.time()) + TOKEN_LIFE_S
    offset = call.offset - call.per_page
    return _signed(store, _TOKEN.pack(expires, 0, offset, 0, -1, call.binding()))


def _signed(store: Store, packed: bytes) -> str:
    signature = hmac.digest(signing_key(store), packed, "sha256")[:_SIGNATURE]
    return base64.urlsafe_b64encode(packed + signature).decode().rstrip("=")


def continued(store: Store, call: ListCall, token: str) -> ListCall:
    """The same call from the token's place on. ApiError as the CRM refuses bad tokens."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        packed, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
        expires, version, offset, last_id, moment, binding = _TOKEN.unpack(packed)
    except (ValueError, struct.error) as error:
        raise invalid_data(param_name="page_token") from error
    expected = hmac.digest(signing_key(store), packed, "sha256")[:_SIGNATURE]
    if not hmac.compare_digest(signature, expected):
        raise invalid_data(param_name="page_token")
    if expires <= store.clock.time():
        raise ApiError(
            400,
            "EXPIRED_VALUE",
            "the page token is expired",
            {"api_name": "page_token", "json_path": "$.query.page_token"},
        )
    if binding != call.binding():
        raise ApiError(
            400,
            "TOKEN_BOUND_DATA_MISMATCH",
            "the data bound to the page token does not match the request",
            {"param_name": "page_token"},
        )
    if offset + call.per_page > TOKEN_RECORDS:
        raise ApiError(
            400,
            "PAGINATION_LIMIT_EXCEEDED",
            "You can only get the first 100000 records using page_token param",
            {"limit": TOKEN_RECORDS},
        )
    after = None
    if version == store.versions[call.module] and moment != -1:
        after = (to_fragment(text_of(moment)) or "", last_id)
    return replace(call, offset=offset, after=after)


def signing_key(store: Store) -> bytes:
    """The org's own key for what it signs; made once, kept in the database."""
    key = store.org.get("page_token_key")
    if key is None:
        key = store.org["page_token_key"] = secrets.token_hex(16)
        with store.write() as tx:
            store.write_meta(tx.sql, "org", json.dumps(store.org))
    return key.encode()
