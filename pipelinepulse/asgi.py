"""The entry point for an asynchronous server; nothing in the product needs one."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pipelinepulse.settings")

application = get_asgi_application()
