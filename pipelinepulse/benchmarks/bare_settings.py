"""Settings of the bare page: nothing but a database and one address."""

import os

import environ

ALLOWED_HOSTS = ["*"]
DATABASES = {"default": environ.Env().db_url_config(os.environ["DATABASE_URL"])}
ROOT_URLCONF = "pipelinepulse.benchmarks.bare_page"
SECRET_KEY = "nothing is signed with it"  # noqa: S105
USE_TZ = True
