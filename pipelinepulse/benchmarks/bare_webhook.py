"""The floor of the webhook benchmark: bare Django, a view that inserts one row and answers 202.

A WSGI application of its own (settings: `bare_webhook_settings`), on the same database.
"""

import json

from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.urls import path


def insert(request):
    body = json.loads(request.body)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO bare_notice (module, zoho_id, received_at) VALUES (%s, %s, now())",
            [body["module"], body["ids"][0]],
        )
    return HttpResponse(status=202, headers={"Content-Length": "0"})


urlpatterns = [path("api/zoho/webhook", insert), path("ready", lambda _: HttpResponse("ok"))]
application = get_wsgi_application()
