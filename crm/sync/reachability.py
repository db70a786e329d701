"""Is the CRM known to be down? Asked before a person's sync is queued; calls nobody."""

from __future__ import annotations

from crm.errors import CrmUnreachable
from crm.zoho import factory
from crm.zoho.errors import RetryLater, ZohoError


def raise_if_known_down() -> None:
    """Raises CrmUnreachable while the CRM is left alone after failures, or refuses the credentials.

    Must not be called inside a transaction: the shared state is in the database.
    """
    try:
        factory.raise_if_known_down()
    except ZohoError as error:
        wait_s = error.retry_after_s if isinstance(error, RetryLater) else None
        raise CrmUnreachable(error.message, retry_after_s=wait_s) from error
