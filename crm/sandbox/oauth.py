"""Zoho Accounts: access tokens from a refresh token or a grant code. Errors come with 200.

A grant code gives a refresh token only with `access_type=offline`: the first time, and later only
with `prompt=consent`.

Issued tokens are kept in the database, so they outlive a restart. A token dies at its expiry,
when it is the oldest of more than ten, when control says so, or with its refresh token.
"""

import secrets
import threading
from urllib.parse import urlencode

from crm.sandbox.errors import ApiError
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store

SCOPE = (
    "ZohoCRM.modules.ALL ZohoCRM.settings.ALL ZohoCRM.users.READ ZohoCRM.org.READ "
    "ZohoCRM.notifications.ALL ZohoCRM.bulk.READ ZohoCRM.coql.READ ZohoSearch.securesearch.READ"
)
MINT_WINDOW_S = 600
ALIVE_AT_ONCE = 10
CODE_LIFE_S = 120

THROTTLED = {
    "error_description": "You have made too many requests continuously. "
    "Please try again after some time.",
    "error": "Access Denied",
    "status": "failure",
}


class OAuth:
    """The token desk of one client with one refresh token."""

    def __init__(
        self, store: Store, client_id: str, client_secret: str, refresh_token: str
    ) -> None:
        self.store = store
        self.client_id = client_id
        self.client_secret = client_secret
        self.refresh_token = refresh_token
        self.token_ttl_s = 3600
        self.mint_limit = 10
        self.refusal_status = 200
        self.minted = 0
        self.mints_refused = 0
        self.scopes = frozenset(SCOPE.split())
        self.base = ""
        self._codes: dict[str, tuple[float, str, bool]] = {}
        self._consented = False
        self._lock = threading.Lock()
        with store.reader() as sql:
            rows = sql.execute(
                "select token, expires from access_token where expires > 0 order by minted"
            )
            self._alive = {token.decode(): expires for token, expires in rows}
            self._revoked = store.read_meta(sql, "revoked_refresh_token") or ""

    # -- endpoints --------------------------------------------------------------------------

    def token(self, request: Request) -> Response:
        """POST /oauth/v2/token"""
        form = request.form
        if form.get("client_id") != self.client_id:
            return Response.of({"error": "invalid_client"})
        if form.get("client_secret") != self.client_secret:
            return Response.of({"error": "invalid_client_secret"})
        grant = form.get("grant_type")
        if grant == "refresh_token":
            given = form.get("refresh_token", "")
            if given != self.refresh_token or given == self._revoked:
                return Response.of({"error": "invalid_code"})
            return self._mint({})
        if grant == "authorization_code":
            return self._exchange(form)
        return Response.of({"error": "unsupported_grant_type"})

    def authorize(self, request: Request) -> Response:
        """GET /oauth/v2/auth: consents at once and sends the browser back with a code."""
        target = request.query.get("redirect_uri", "")
        if request.query.get("client_id") != self.client_id or not target:
            return Response(
                400, b"<html><body>Invalid client or redirect</body></html>", "text/html"
            )
        code = f"1000.{secrets.token_hex(16)}.{secrets.token_hex(16)}"
        offline = request.query.get("access_type") == "offline"
        again = request.query.get("prompt") == "consent"
        gives_refresh_token = offline and (again or not self._consented)
        self._codes[code] = (self.store.clock.time() + CODE_LIFE_S, target, gives_refresh_token)
        answer = {"code": code, "location": "us", "accounts-server": self.base}
        if "state" in request.query:
            answer = {"state": request.query["state"], **answer}
        joint = "&" if "?" in target else "?"
        return Response(
            302, b"", "text/html", headers={"Location": target + joint + urlencode(answer)}
        )

    def revoke(self, request: Request) -> Response:
        """POST /oauth/v2/token/revoke"""
        if request.form.get("token") != self.refresh_token:
            return Response(400, b"<html><body>Invalid token</body></html>", "text/html")
        self.revoke_refresh_token()
        return Response.of({"status": "success"})

    def server_info(self, _request: Request) -> Response:
        """GET /oauth/serverinfo"""
        return Response.of({"result": "success", "locations": {"us": self.base}})

    # -- what the API asks ------------------------------------------------------------------

    def check(self, header: str | None) -> None:
        """Let a call in, or 401 as the CRM words it."""
        if not header or not header.startswith("Zoho-oauthtoken "):
            raise ApiError(401, "AUTHENTICATION_FAILURE", "Authentication failed")
        expires = self._alive.get(header[16:].strip())
        if expires is None or expires <= self.store.clock.time():
            raise ApiError(401, "INVALID_TOKEN", "invalid oauth token", counts=False)

    def check_scopes(self, needed: tuple[str, ...]) -> None:
        """401 OAUTH_SCOPE_MISMATCH unless each needed scope is granted in some form."""
        for scope in needed:
            if not any(form in self.scopes for form in forms_of(scope)):
                raise ApiError(
                    401,
                    "OAUTH_SCOPE_MISMATCH",
                    "invalid oauth scope to access this URL",
                    counts=False,
                )

    def expire_tokens(self) -> None:
        """Every access token is stale from now on."""
        with self._lock, self.store.write() as tx:
            tx.sql.execute("update access_token set expires=0")
            self._alive.clear()

    def revoke_refresh_token(self) -> None:
        """The refresh token and all it minted are dead."""
        self.expire_tokens()
        with self.store.write() as tx:
            self.store.write_meta(tx.sql, "revoked_refresh_token", self.refresh_token)
        self._revoked, self._consented = self.refresh_token, False

    def restore_refresh_token(self) -> None:
        """Consent was given anew."""
        with self.store.write() as tx:
            self.store.write_meta(tx.sql, "revoked_refresh_token", "")
        self._revoked = ""

    # -- minting ----------------------------------------------------------------------------

    def _exchange(self, form: dict[str, str]) -> Response:
        nothing = (0.0, "", False)
        expires, target, gives_refresh_token = self._codes.pop(form.get("code", ""), nothing)
        if expires <= self.store.clock.time():
            return Response.of({"error": "invalid_code"})
        if form.get("redirect_uri") != target:
            return Response.of({"error": "invalid_redirect_uri"})
        if not gives_refresh_token:
            return self._mint({})
        self._consented = True
        self.restore_refresh_token()
        return self._mint({"refresh_token": self.refresh_token})

    def _mint(self, extra: dict[str, str]) -> Response:
        now = self.store.clock.time()
        with self._lock, self.store.write() as tx:
            recent = tx.sql.execute(
                "select count(*) from access_token where minted > ?", (now - MINT_WINDOW_S,)
            ).fetchone()[0]
            if recent >= self.mint_limit:
                self.mints_refused += 1
                return Response.of(THROTTLED, self.refusal_status)
            token = f"1000.{secrets.token_hex(16)}.{secrets.token_hex(16)}"
            expires = now + self.token_ttl_s
            tx.sql.execute("insert into access_token values (?,?,?)", (token, now, expires))
            self._alive[token] = expires
            while len(self._alive) > ALIVE_AT_ONCE:
                oldest = next(iter(self._alive))
                del self._alive[oldest]
                tx.sql.execute("update access_token set expires=0 where token=?", (oldest,))
            self.minted += 1
        return Response.of(
            {
                "access_token": token,
                **extra,
                "scope": " ".join(sorted(self.scopes)),
                "api_domain": self.base,
                "token_type": "Bearer",
                "expires_in": self.token_ttl_s,
            }
        )


def forms_of(scope: str) -> set[str]:
    """The grants that cover a scope: itself, ALL in its place, and the wider ones.

    `ZohoCRM.modules.deals.READ` is covered by `ZohoCRM.modules.{deals.ALL,READ,ALL}`.
    """
    parts = scope.split(".")
    stem, verb = parts[:-1], parts[-1]
    forms = set()
    while len(stem) >= 2:
        forms |= {".".join([*stem, verb]), ".".join([*stem, "ALL"])}
        stem = stem[:-1]
    return forms
