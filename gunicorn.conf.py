"""How gunicorn serves the product; read by itself when it starts in this folder."""

import os
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
# by itself): it goes to the poller at once, which holds hundreds.
_wait_for_data = gthread.TConn.wait_for_data
gthread.TConn.wait_for_data = lambda connection, timeout: _wait_for_data(connection, 0)
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
