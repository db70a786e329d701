"""Calling out: a JSON POST to an address that a client gave us, and which addresses we take."""

import ipaddress
import json
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from crm.sandbox.errors import ApiError

TIMEOUT_S = 5


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


_opener = build_opener(ProxyHandler({}), _NoRedirect())


def post_json(url: str, content: Any) -> int | None:
    """Send it once; the status of the answer, None if there was none."""
    request = Request(  # noqa: S310 (the scheme was checked when the address was given)
        url,
        json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"),
        {"Content-Type": "application/json", "User-Agent": "zoho-sandbox"},
    )
    try:
        with _opener.open(request, timeout=TIMEOUT_S) as response:
            return response.status
    except URLError as error:
        return getattr(error, "code", None)
    except (OSError, ValueError):
        return None


def allowed_url(url: str) -> bool:
    """Public https as in the real CRM, and, our one deviation, anything on this machine."""
    parts = urlparse(url)
    host = parts.hostname or ""
    if host in ("127.0.0.1", "localhost", "::1"):
        return parts.scheme in ("http", "https")
    try:
        public = ipaddress.ip_address(host).is_global
    except ValueError:
        public = "." in host
    return parts.scheme == "https" and public


def callback_of(content: dict[str, Any]) -> str | None:
    """The address that a bulk job shall call when it is done; ApiError if it may not."""
    callback = content.get("callback")
    if callback is None:
        return None
    url = callback.get("url") if isinstance(callback, dict) else None
    if not isinstance(url, str) or not allowed_url(url):
        raise ApiError(400, "INVALID_CALLBACK_URL", "callback url is invalid", {})
    if callback.get("method", "post").lower() != "post":
        raise ApiError(
            400,
            "INVALID_CALLBACK_METHOD",
            "callback method is invalid",
            {"supported_callback_methods": ["post"]},
        )
    return url
