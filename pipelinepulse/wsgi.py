"""The web server's entry point: `gunicorn pipelinepulse.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pipelinepulse.settings")

application = get_wsgi_application()
