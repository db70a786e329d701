"""Settings of the bare webhook: one address, and a connection that is kept, as ours is."""

import os

import environ

ALLOWED_HOSTS = ["*"]
DATABASES = {
    "default": {**environ.Env().db_url_config(os.environ["DATABASE_URL"]), "CONN_MAX_AGE": 60}
}
ROOT_URLCONF = "pipelinepulse.benchmarks.bare_webhook"
SECRET_KEY = "nothing is signed with it"  # noqa: S105
USE_TZ = True
