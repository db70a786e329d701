"""One FilterSet for list, dashboard, board, API and export, and what an address says with it.

Decides which filters exist, what their values may be and what they mean; the same query string
gives the same deals everywhere. `Selection` is that query string, checked, for pages: invalid
values are left out and named. The API refuses them instead (422).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import django_filters
from django.conf import settings
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from crm import stages
from crm.models import Account, ChangeEvent, CrmUser, Deal
from crm.words import (
    NONE,
    MomentFilter,
    WordsField,
    WordsFilter,
    containing,
    joinable,
    numbers_in,
    owner_pks,
    users_named,
)
from o2r import querysets
from o2r.chips import chip_label
from o2r.models import SignalChange
from o2r.permissions import owner_pks_of
from o2r.written import business

OUTCOMES = ("all", "active", "realized", "lost")
PHASES = ("phase1", "phase2", "phase3", "phase4")
SIGNALS = ("green", "yellow", "red", "blocked")
PERIODS = ("12m", "all")
MISSING = {
    "amount": Q(amount_minor__isnull=True, amount_sgd_minor__isnull=True),
    "rate": Q(amount_minor__isnull=False, amount_sgd_minor__isnull=True),
    "closing_date": Q(closing_date__isnull=True),
    "account": Q(account__isnull=True),
}
# What a change of a kind means among the kept events, and the stage types it ends in.
CHANGE_FIELDS = {"stage": "crm_stage", "amount": "amount_minor", "closing_date": "closing_date"}
STAGE_ENDS = {"stage": stages.OPEN, "won": stages.WON, "lost": stages.LOST}
# Lists behind figures whose population is not the active ones.
OF_ANY_OUTCOME = frozenset(["stage", "changed", "missing", "overdue", "counted"])
CHANGE_KINDS = ("new", "stage", "amount", "closing_date", "won", "lost", "signal")


class OpportunityFilter(django_filters.FilterSet):
    """Filters over live deals. `request` must carry the person for `mine`."""

    stage = WordsFilter(choices=stages.STAGES, method="by_stage")
    territory = WordsFilter(method="by_word")
    service_line = WordsFilter(method="by_word")
    owner = WordsFilter(method="by_owner")
    account = WordsFilter(method="by_account")
    company = django_filters.CharFilter(method="by_company", max_length=200)
    mine = WordsFilter(choices=("0", "1"), method="by_mine")
    search = django_filters.CharFilter(method="by_search", max_length=200)
    outcome = WordsFilter(choices=OUTCOMES, method="by_outcome")
    phase = WordsFilter(choices=PHASES, method="by_phase")
    health_signal = WordsFilter(choices=SIGNALS, method="by_signal")
    overdue = WordsFilter(choices=("0", "1"), method="by_overdue")
    counted = WordsFilter(choices=("cycle",), method="by_counted")
    period = WordsFilter(choices=PERIODS, method="by_period")
    closing_from = django_filters.DateFilter(
        field_name="closing_date", lookup_expr="gte", input_formats=["%Y-%m-%d"]
    )
    closing_to = django_filters.DateFilter(
        field_name="closing_date", lookup_expr="lte", input_formats=["%Y-%m-%d"]
    )
    amount_min = django_filters.NumberFilter(method="by_amount_min", max_digits=15)
    amount_max = django_filters.NumberFilter(method="by_amount_max", max_digits=15)
    missing = WordsFilter(choices=tuple(MISSING), method="by_missing")
    changed = WordsFilter(choices=CHANGE_KINDS, method="by_changed")
    changed_since = MomentFilter(method="with_changed")
    updated_since = MomentFilter(field_name="updated_at", lookup_expr="gte")

    class Meta:
        model = Deal
        fields: list[str] = []

    def by_stage(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(stage__in=words)

    def by_word(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        given = [word for word in words if word != NONE]
        found = Q(**{f"{name}__in": given})
        if NONE in words:
            found |= Q(**{f"{name}__isnull": True})
        return rows.filter(found)

    def by_owner(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        named = getattr(self.request, "owners_named", owner_pks)
        found = Q(owner__in=named(words))
        if NONE in words:
            found |= Q(owner__isnull=True)
        return rows.filter(found)

    def by_account(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        numbers = numbers_in(words)
        accounts = Account.objects.filter(Q(pk__in=numbers) | Q(zoho_id__in=numbers))
        found = Q(account__in=accounts)
        if NONE in words:
            found |= Q(account__isnull=True)
        return rows.filter(found)

    def by_company(self, rows: QuerySet, name: str, text: str) -> QuerySet:
        return rows.filter(containing(["account__name"], text))

    def by_mine(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        if "1" not in words:
            return rows
        return rows.filter(owner__in=owner_pks_of(self.request.user))

    def by_search(self, rows: QuerySet, name: str, text: str) -> QuerySet:
        text = text.strip().replace("\x00", "")
        if not text:
            return rows
        return rows.filter(containing(("name", "account__name"), text))

    def by_outcome(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        # What asks for phase or signal finds those that have one; so may the index.
        is_recomputed = any(self.data.get(name) for name in ("phase", "health_signal", "overdue"))
        return querysets.with_outcome(rows, words, is_recomputed=is_recomputed)

    def by_phase(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(opportunity__current_phase__in=[PHASES.index(w) + 1 for w in words])

    def by_signal(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        """Those that have ended have none."""
        return rows.filter(opportunity__health_signal__in=words, opportunity__outcome="active")

    def by_overdue(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        """Payments that are overdue, of any outcome but lost."""
        if "1" not in words:
            return rows
        return rows.filter(opportunity__is_overdue=True)

    def by_counted(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        """The population of a figure that no other filter names."""
        return rows.filter(opportunity__cycle_days__isnull=False).exclude(
            opportunity__outcome="lost"
        )

    def by_period(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        """Closed deals by their closing date; open ones are in every period."""
        start, end = period_bounds(words[0], today_of_business())
        if start is None:
            return rows
        return rows.filter(
            Q(stage_type=stages.OPEN) | Q(closing_date__gte=start, closing_date__lte=end)
        )

    def by_amount_min(self, rows: QuerySet, name: str, value: Any) -> QuerySet:
        return rows.filter(amount_sgd_minor__gte=int(value * 100))

    def by_amount_max(self, rows: QuerySet, name: str, value: Any) -> QuerySet:
        return rows.filter(amount_sgd_minor__lte=int(value * 100))

    def by_missing(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        found = Q()
        for word in words:
            found |= MISSING[word]
        return rows.filter(found)

    def by_changed(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        since = self.form.cleaned_data.get("changed_since") or start_of_yesterday()
        return rows.filter(changed_deals(words, since))

    def with_changed(self, rows: QuerySet, name: str, value: datetime) -> QuerySet:
        return rows  # read by by_changed


def today_of_business() -> date:
    return timezone.now().astimezone(ZoneInfo(settings.BUSINESS_TIME_ZONE)).date()


def start_of_yesterday() -> datetime:
    zone = ZoneInfo(settings.BUSINESS_TIME_ZONE)
    return datetime.combine(today_of_business() - timedelta(days=1), time.min, tzinfo=zone)


def period_bounds(period: str, today: date) -> tuple[date | None, date]:
    """First and last day of a period: 12m is the 12 months up to today; all has no first day."""
    if period == "all":
        return None, today
    try:
        year_ago = today.replace(year=today.year - 1)
    except ValueError:  # 29 February
        year_ago = today.replace(year=today.year - 1, day=28)
    return year_ago + timedelta(days=1), today


def changed_deals(kinds: Iterable[str], since: datetime) -> Q:
    """Deals that changed in one of these ways since, by the time in the CRM.

    One subquery of ids: an OR over conditions would read every deal. A stage change that ended in
    won or lost is *won* or *lost*, not *stage*.
    """
    ids = Deal.objects.none().values_list("pk")
    parts: list[QuerySet] = []
    for kind in kinds:
        if kind == "new":
            parts.append(Deal.objects.filter(crm_created_at__gte=since).values_list("pk"))
            continue
        if kind == "signal":
            parts.append(signal_changes(since).values_list("opportunity__deal_id"))
            continue
        events = ChangeEvent.objects.filter(
            module="Deals",
            kind=ChangeEvent.CHANGED,
            changed_at__gte=since,
            field=CHANGE_FIELDS.get(kind, "crm_stage"),
        )
        if kind in STAGE_ENDS:
            ended = Deal.objects.filter(stage_type=STAGE_ENDS[kind], pk=OuterRef("record_id"))
            events = events.filter(Exists(ended))
        parts.append(events.values_list("record_id"))
    if parts:
        ids = parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]
    return Q(pk__in=ids)


def signal_changes(since: datetime) -> QuerySet:
    """From one signal to another, by the business day on which it turned; neither the first look
    nor the end is a change of signal."""
    turned = SignalChange.objects.filter(happened_on__gte=business(since).date())
    return turned.exclude(from_signal="").exclude(to_signal="").order_by()


def address_of(given: Mapping[str, list[str]]) -> str:
    """A query string that gives the same filters back, also where a value holds a comma."""
    words = {
        name: [joinable(value) for value in values] if is_words_filter(name) else values
        for name, values in given.items()
    }
    return urlencode(sorted(words.items()), doseq=True)


def is_words_filter(name: str) -> bool:
    return isinstance(OpportunityFilter.base_filters.get(name), WordsFilter)


class Selection:
    """What an address selects, for pages. Lists hold the checked words of each filter."""

    LISTS = (
        *("stage", "territory", "service_line", "owner", "account", "missing", "changed"),
        *("phase", "health_signal", "overdue", "counted"),
    )
    PAGE_PARAMETERS = frozenset(
        ["list", "since", "page", "cursor", "after", "before", "ordering", "sort", "density", "q"]
    )

    def __init__(
        self, given: Mapping[str, list[str]], user: Any, ignored: Iterable[str] = ()
    ) -> None:
        self.given = {name: list(words) for name, words in given.items() if words}
        self.user = user
        self.ignored = list(ignored)

    @classmethod
    def from_query(cls, query: QueryDict, user: Any) -> Selection:
        """Keep what is valid; name the rest in `ignored`."""
        form = OpportunityFilter(query, queryset=Deal.objects.none()).form
        form.is_valid()
        given: dict[str, list[str]] = {}
        ignored = [
            name for name in query if name not in form.fields and name not in cls.PAGE_PARAMETERS
        ]
        for name, field in form.fields.items():
            if name not in query:
                continue
            if name in form.errors:
                ignored.append(name)
            elif isinstance(field, WordsField):
                given[name] = form.cleaned_data[name]
            elif said := str(query[name]).strip():
                given[name] = [said]
        return cls(given, user, ignored)

    def __getattr__(self, name: str) -> list[str]:
        if name in self.LISTS:
            return self.given.get(name, [])
        raise AttributeError(name)

    @property
    def mine(self) -> bool:
        return self.given.get("mine") == ["1"]

    @property
    def period(self) -> str:
        return (self.given.get("period") or ["12m"])[0]

    @property
    def search(self) -> str:
        return (self.given.get("search") or [""])[0]

    @property
    def outcome(self) -> str:
        return (self.given.get("outcome") or ["active"])[0]

    @property
    def is_filtered(self) -> bool:
        return bool(self.given)

    @cached_property
    def owners(self) -> list[CrmUser]:
        """The CRM users that *owner* names: one query, asked once."""
        return list(users_named(self.owner)) if set(self.owner) - {NONE} else []

    @cached_property
    def owner_keys(self) -> set[int] | None:
        """Primary keys of the owners that *mine* and *owner* leave; 0 is no owner; None: any."""
        keys: set[int] | None = None
        if self.owner:
            keys = {user.pk for user in self.owners} | ({0} if NONE in self.owner else set())
        if self.mine:
            own = set(owner_pks_of(self.user))
            keys = own if keys is None else keys & own
        return keys

    def query(self, **changes: Any) -> str:
        """The query string with some filters changed; None, False, "" and [] take one away."""
        given = dict(self.given)
        for name, value in changes.items():
            if value in (None, False, "", []):
                given.pop(name, None)
            elif value is True:
                given[name] = ["1"]
            else:
                given[name] = [value] if isinstance(value, str) else list(value)
        return address_of(given)

    @property
    def chips(self) -> list[tuple[str, str]]:
        """A label for each value that filters, and the query string without it."""
        names = {
            word: str(user)
            for user in self.owners
            for word in (str(user.pk), str(user.zoho_id), user.email.lower())
        }
        found = []
        for name, words in sorted(self.given.items()):
            if name in ("mine", "period"):
                continue
            for word in words:
                rest = [other for other in words if other != word]
                found.append((chip_label(name, word, names), self.query(**{name: rest})))
        return found

    def without(self, *names: str) -> Selection:
        """The same selection with some filters left out."""
        given = {name: words for name, words in self.given.items() if name not in names}
        rest = Selection(given, self.user)
        if "owners" in self.__dict__ and "owner" not in names:
            rest.know_owners(self.owners)
        return rest

    def know_owners(self, users: Iterable[CrmUser]) -> None:
        """Whom *owner* names, found along with something else: spares the query of `owners`."""
        self.__dict__["owners"] = list(users)

    def deals(self, *, default_outcome: str = "active") -> QuerySet:
        """Live deals of this selection; lists show active ones unless outcome or stage is said."""
        given = dict(self.given)
        if "outcome" not in given and not (OF_ANY_OUTCOME & given.keys()):
            given["outcome"] = [default_outcome]
        data = QueryDict(address_of(given))
        rows = querysets.live_deals()
        return OpportunityFilter(data, queryset=rows, request=_Request(self)).qs


class _Request:
    """What the FilterSet asks of a request: the person, and whom *owner* names."""

    def __init__(self, selection: Selection) -> None:
        self.user = selection.user
        self.selection = selection

    def owners_named(self, words: list[str]) -> Any:
        """Keys, or while they were not asked for yet, a subquery of them."""
        if "owners" in self.selection.__dict__:
            return [user.pk for user in self.selection.owners]
        return users_named(words).values("pk")
