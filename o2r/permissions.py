"""Who may do what: decided here once, asked by pages, API and admin alike.

Roles are groups: sales rep, sales manager, ops, integrator. A refusal carries the sentence that
says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crm.models import CrmUser

REP, MANAGER, OPS, INTEGRATOR = "sales rep", "sales manager", "ops", "integrator"
ROLES = (REP, MANAGER, OPS, INTEGRATOR)


@dataclass(frozen=True)
class Decision:
    """True or false, with the reason of a refusal."""

    is_allowed: bool
    why: str = ""

    def __bool__(self) -> bool:
        return self.is_allowed


ALLOWED = Decision(True)


def roles_of(user: Any) -> frozenset[str]:
    """The roles of a signed-in person; one query for each user object."""
    if not user.is_authenticated:
        return frozenset()
    known = getattr(user, "_pulse_roles", None)
    if known is None:
        known = frozenset(user.groups.values_list("name", flat=True)) & frozenset(ROLES)
        if user.is_superuser:
            known |= {MANAGER, OPS}
        user._pulse_roles = known
    return known


def owner_pks_of(user: Any) -> list[int]:
    """Primary keys of the CRM users that this person is, by e-mail, ignoring case."""
    if not user.is_authenticated or not user.email:
        return []
    return list(CrmUser.objects.filter(email__iexact=user.email).values_list("pk", flat=True))


def may_see_sales(user: Any) -> Decision:
    """Everybody with a role sees everything of sales."""
    if roles_of(user):
        return ALLOWED
    return Decision(False, "Your account has no role yet. Ask ops to give you one.")


def may_start_sync(user: Any, kind: str) -> Decision:
    """A delta: rep, manager and ops. A full sync: ops.

    What is asked for counts: that the first delta of an empty mirror reads everything is ours.
    """
    roles = roles_of(user)
    if kind == "full":
        if OPS in roles:
            return ALLOWED
        return Decision(False, "A full sync is started by ops. Start a delta instead, or ask ops.")
    if roles & {REP, MANAGER, OPS}:
        return ALLOWED
    return Decision(False, "Starting a sync needs the role sales rep, sales manager or ops.")


def may_configure(user: Any) -> Decision:
    """Mapping, stages, rates, thresholds, repairs of the mirror: ops."""
    if OPS in roles_of(user):
        return ALLOWED
    return Decision(False, "This is changed by ops. Ask them.")
