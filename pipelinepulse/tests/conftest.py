"""The stand-in CRM of the mirror's own tests, for whole processes that work with it."""

from crm.tests.conftest import big_crm, make_crm, many_seed

__all__ = ["big_crm", "make_crm", "many_seed"]
