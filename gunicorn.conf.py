"""How gunicorn serves the product; read by itself when it starts in this folder."""

import os
import socket
import struct
import sys
from pathlib import Path

# gunicorn looks for modules here only after it has read this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pipelinepulse.settings")

from django.conf import settings
from gunicorn.workers import gthread

# Where to listen; the command line's --bind wins.
bind = f"{os.environ.get('WEB_HOST', '127.0.0.1')}:{settings.PORT}"
worker_class = "gthread"
# A socket that is open and says nothing must not hold a thread (for five seconds each, as it would
# by itself): it goes to the poller at once, which holds hundreds. No setting says so, and the
# module's constant for it also bounds how long a body is drained. The method is called once, before
# a new connection's first request (gunicorn 27.0, pinned with its hash); a version without it ends
# here, at the start, and test_row_76 says whether it still does what it is for.
_wait_for_data = gthread.TConn.wait_for_data
gthread.TConn.wait_for_data = lambda connection, timeout: _wait_for_data(connection, 0)
# A request that has begun and then stalls gives its thread back; so does an answer nobody reads.
# Whoever sends a byte now and then holds it for longer: many of those are a proxy's to keep out.
STALLED_S = 10


def when_ready(server):
    """Set where connections are taken on: what it accepts inherits it from there."""
    for listener in server.LISTENERS:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", STALLED_S, 0))


workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = int(os.environ.get("WEB_THREADS", "4"))
timeout = 60
loglevel = "warning"
graceful_timeout = 10
# Settings are read in the master: what it refuses ends it, instead of a loop of dying workers.
preload_app = True
# A worker that leaks is replaced; jitter keeps them from going all at once.
max_requests = 5000
max_requests_jitter = 500
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108
