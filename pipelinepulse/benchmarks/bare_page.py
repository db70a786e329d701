"""The floor of the page benchmarks: bare Django, no login, no session, raw SQL, 50 rows listed.

A WSGI application of its own (settings: `bare_settings`), on the same database.
"""

from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.template import Context, Engine
from django.urls import path

ROWS = """<!doctype html><title>Deals</title><table>{% for row in rows %}<tr>{% for value in row %}
<td>{{ value }}</td>{% endfor %}</tr>{% endfor %}</table>"""
TEMPLATE = Engine().from_string(ROWS)


def fifty(request):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT d.id, d.name, a.name, d.stage, d.amount_minor, d.currency, d.probability, "
            "d.closing_date, u.name, d.territory, d.service_line, d.crm_modified_at "
            "FROM crm_deal d LEFT JOIN crm_account a ON a.id = d.account_id "
            "LEFT JOIN crm_crmuser u ON u.id = d.owner_id "
            "ORDER BY d.crm_modified_at DESC, d.id DESC LIMIT 50"
        )
        rows = cursor.fetchall()
    return HttpResponse(TEMPLATE.render(Context({"rows": rows})))


urlpatterns = [path("", fifty)]
application = get_wsgi_application()
