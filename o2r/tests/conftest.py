"""The stand-in CRM of the mirror's own tests, for what people do from here upon it."""

from crm.tests.conftest import crm, make_crm

__all__ = ["crm", "make_crm"]
