"""Sets the notification channels up as a script in its own process; prints JSON."""

import json

import django

django.setup()

from django.utils import timezone  # noqa: E402

from crm.sync import channels  # noqa: E402

made = channels.set_up(now=timezone.now())
print(json.dumps({row.module: row.channel_id for row in made}))  # noqa: T201
