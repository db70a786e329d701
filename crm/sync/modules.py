"""The mirrored modules: which table each one fills, in the order in which a run reads them."""

from __future__ import annotations

from dataclasses import dataclass

from crm.models import Account, Contact, Deal, Lead, MirroredRecord


@dataclass(frozen=True)
class Module:
    """`converted`: the CRM hides converted records unless asked; set where that matters."""

    name: str
    model: type[MirroredRecord]
    label: str
    converted: str | None = None


ACCOUNTS = Module("Accounts", Account, "accounts")
CONTACTS = Module("Contacts", Contact, "contacts")
LEADS = Module("Leads", Lead, "leads", converted="both")
DEALS = Module("Deals", Deal, "deals")

# References point backwards in this order, so a run meets few records it does not know yet.
ORDER = (ACCOUNTS, CONTACTS, LEADS, DEALS)
BY_NAME = {module.name: module for module in ORDER}
