"""Headers of every answer, and how long a session lives.

Decides what a browser may do with our pages and when a sign-in ends. Who may do what is decided
by each app's permissions.
"""

import contextlib
import time
from collections.abc import Callable

from django.conf import settings
from django.contrib.auth import logout
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

Respond = Callable[[HttpRequest], HttpResponse]

PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"

SIGNED_IN_AT = "signed_in_at"
SEEN_AT = "seen_at"
# A session row is written at most this often, so that looking at pages does not write.
SEEN_EVERY_SECONDS = 1800


class HeadersMiddleware:
    """Adds the permissions policy; keeps private pages out of caches."""

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        if not request.path_info.startswith(settings.STATIC_URL):
            response.headers.setdefault("Cache-Control", "no-store, private")
            patch_vary_headers(response, ["Cookie", "HX-Request"])
        return response


class SessionAgeMiddleware:
    """Ends a sign-in that is too old, or that nobody has used for too long."""

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            was_modified = request.session.modified
            keep_or_end(request, now=time.time())
            if request.user.is_authenticated and not was_modified and request.session.modified:
                _write_down(request.session)
        return self.get_response(request)


def _write_down(session: SessionBase) -> None:
    """Save what was noted; a database that takes no writes must not cost anybody the page.

    Left to the end of the request, a write that is refused would be told as a session that
    somebody else has ended (400).
    """
    with contextlib.suppress(DatabaseError, UpdateError):
        session.save()
    session.modified = False


def keep_or_end(request: HttpRequest, *, now: float) -> None:
    """Sign out when the session's time is over; else note, now and then, that it is in use."""
    session = request.session
    signed_in_at = session.setdefault(SIGNED_IN_AT, now)
    seen_at = session.get(SEEN_AT, now)
    is_idle = now - seen_at > settings.SESSION_IDLE.total_seconds()
    if is_idle or now - signed_in_at > settings.SESSION_ABSOLUTE.total_seconds():
        logout(request)
    elif SEEN_AT not in session or now - seen_at > SEEN_EVERY_SECONDS:
        session[SEEN_AT] = now
