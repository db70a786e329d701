"""Who may do what: decided here once, asked by pages, API and admin alike.

Roles are groups: sales rep, sales manager, ops, integrator. A refusal carries the sentence that
says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import CharField, F, Value
from django.db.models.functions import Cast

from crm.models import CrmUser
from o2r.models import Preference

REP, MANAGER, OPS, INTEGRATOR = "sales rep", "sales manager", "ops", "integrator"
ROLES = (REP, MANAGER, OPS, INTEGRATOR)
# Given by ops to an integrator's user: the scope "write" of its token.
WRITE_SCOPE = "crm.write_through_api"


@dataclass(frozen=True)
class Decision:
    """True or false, with the reason of a refusal."""

    is_allowed: bool
    why: str = ""

    def __bool__(self) -> bool:
        return self.is_allowed


ALLOWED = Decision(True)


def roles_of(user: Any) -> frozenset[str]:
    """The roles of a signed-in person."""
    return _person(user).roles


def owner_pks_of(user: Any) -> list[int]:
    """Primary keys of the CRM users that this person is, by e-mail, ignoring case."""
    return list(_person(user).owner_pks)


def prefers_mine(user: Any) -> bool:
    """Whether this person's dashboard opens with their own deals, wherever they sign in."""
    return _person(user).prefers_mine


@dataclass(frozen=True)
class _Person:
    roles: frozenset[str] = frozenset()
    owner_pks: tuple[int, ...] = ()
    prefers_mine: bool = False


def _person(user: Any) -> _Person:
    """What pages ask of a person: one query for each user object."""
    if not user.is_authenticated:
        return _Person()
    known = getattr(user, "_pulse_person", None)
    if known is None:
        facts = (
            user.groups.filter(name__in=ROLES)
            .annotate(kind=Value("role"), word=F("name"))
            .values_list("kind", "word")
        )
        chosen = Preference.objects.filter(user=user, is_mine=True)
        facts = facts.union(
            chosen.annotate(kind=Value("mine"), word=Value("")).values_list("kind", "word")
        )
        if user.email:
            owners = CrmUser.objects.filter(email__iexact=user.email)
            as_text = Cast("pk", CharField())
            facts = facts.union(
                owners.annotate(kind=Value("owner"), word=as_text).values_list("kind", "word")
            )
        found = list(facts)
        roles = frozenset(word for kind, word in found if kind == "role")
        if user.is_superuser:
            roles |= {MANAGER, OPS}
        pks = tuple(sorted(int(word) for kind, word in found if kind == "owner"))
        prefers_mine = any(kind == "mine" for kind, _ in found)
        known = user._pulse_person = _Person(roles, pks, prefers_mine)
    return known


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


def may_write_back(user: Any, kind: str, record: Any) -> Decision:
    """A change of a record that goes to the CRM: reps their own, managers all, integrators whose
    token may write all. Deletions: owner or manager."""
    roles = roles_of(user)
    if MANAGER in roles:
        return ALLOWED
    if INTEGRATOR in roles:
        if kind == "delete":
            return Decision(False, "Deleting needs the owner or a manager.")
        if user.has_perm(WRITE_SCOPE):
            return ALLOWED
        return Decision(False, "This token may only read. Ask ops for the scope “write”.")
    if REP in roles:
        return _owns(user, record)
    return Decision(False, "Changing records needs the role sales rep or sales manager.")


def may_preview_write_back(user: Any) -> Decision:
    """Looking at what would be sent to the CRM, whoever entered it, and its cost: managers, ops."""
    if roles_of(user) & {MANAGER, OPS}:
        return ALLOWED
    return Decision(False, "What waits for the CRM as a whole is for managers and ops.")


def may_resolve(user: Any, record: Any) -> Decision:
    """Choosing between our value and the CRM's: reps of their own records, managers and ops all."""
    roles = roles_of(user)
    if roles & {MANAGER, OPS}:
        return ALLOWED
    if REP in roles:
        return _owns(user, record)
    return Decision(False, "A conflict is decided by the owner, a manager or ops.")


def may_record(user: Any, deal: Any) -> Decision:
    """Milestones, blocks, action items and activities of an opportunity: reps of their own,
    managers all, integrators whose token may write all."""
    return may_write_back(user, "edit", deal)


def may_do_item(user: Any, item: Any) -> Decision:
    """An action item: who may work on its opportunity, and whose item it is."""
    if REP in roles_of(user) and item.owner_id is not None and item.owner_id in owner_pks_of(user):
        return ALLOWED
    return may_record(user, item.opportunity.deal)


def may_review(user: Any) -> Decision:
    """Write a review, of any opportunity: rep, manager and ops."""
    if roles_of(user) & {REP, MANAGER, OPS}:
        return ALLOWED
    return Decision(False, "Reviews are written by sales reps, sales managers and ops.")


def may_edit_review(user: Any, review: Any, today: Any) -> Decision:
    """Its author, on the same business day: it tells what was decided then."""
    if review.reviewer_id is None or review.reviewer_id != user.pk:
        return Decision(False, "Only its author can change a review. Write one of your own.")
    if review.reviewed_on != today:
        return Decision(
            False, "A review can be changed on its own day only. Write a new one instead."
        )
    return may_review(user)


def may_snooze(user: Any, deal: Any) -> Decision:
    """Let an alert wait: reps of their own, managers for others too."""
    roles = roles_of(user)
    if MANAGER in roles:
        return ALLOWED
    if REP in roles:
        return _owns(user, deal)
    return Decision(False, "Snoozing needs the owner or a sales manager.")


def may_export(user: Any) -> Decision:
    """Everybody who sees sales may take it along."""
    return may_see_sales(user)


def _owns(user: Any, record: Any) -> Decision:
    owners = owner_pks_of(user)
    if not owners:
        return Decision(
            False,
            "Your e-mail address belongs to no user of the CRM, so nothing is yours to change. "
            "Ask ops to link your account.",
        )
    if record is not None and record.owner_id in owners:
        return ALLOWED
    return Decision(False, "This belongs to somebody else. Its owner or a manager can change it.")
