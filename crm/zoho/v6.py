"""Version 6 of the CRM's API: the same calls under its own path."""

from __future__ import annotations

from crm.zoho.v8 import ZohoV8


class ZohoV6(ZohoV8):
    """See `ZohoClient`."""

    version = "v6"
