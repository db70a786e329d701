"""Where a record can be seen in the CRM's own pages."""

from __future__ import annotations

import re

from django.conf import settings

# The CRM's pages kept the old name of deals.
_TABS = {
    "Deals": "Potentials",
    "Accounts": "Accounts",
    "Contacts": "Contacts",
    "Leads": "Leads",
}
_API_HOST = re.compile(r"https://www\.zohoapis\.(com|eu|in|com\.au|jp|ca|sa|com\.cn|uk)")


def record_url(module: str, zoho_id: int | None, domain_name: str) -> str | None:
    """Address of a record in the CRM; None for an unknown data centre or organisation.

    `domain_name` is the organisation's short name in addresses, as `CrmConnection` keeps it.
    """
    if zoho_id is None or not domain_name or settings.ZOHO is None:
        return None
    found = _API_HOST.fullmatch(settings.ZOHO.base_url)
    if found is None:
        return None
    host = "crm.zohocloud.ca" if found[1] == "ca" else f"crm.zoho.{found[1]}"
    return f"https://{host}/crm/{domain_name}/tab/{_TABS[module]}/{zoho_id}"
