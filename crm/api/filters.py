"""Filters of the mirror's lists; each parameter of the address is one of these."""

from __future__ import annotations

import django_filters
from django.db.models import Q, QuerySet

from crm.models import Account, Contact, CrmUser, Lead, Pipeline, SyncRun
from crm.models import runs as ledger
from crm.words import NONE, MomentFilter, WordsFilter, containing, numbers_in, owner_pks


class MirrorFilter(django_filters.FilterSet):
    """What every mirrored module is filtered by. `searched` names the columns of `search`."""

    searched: tuple[str, ...] = ()

    search = django_filters.CharFilter(method="by_search", max_length=200)
    owner = WordsFilter(method="by_owner")
    updated_since = MomentFilter(field_name="updated_at", lookup_expr="gte")

    def by_search(self, rows: QuerySet, name: str, text: str) -> QuerySet:
        """Part of any searched column, case ignored."""
        return rows.filter(containing(self.searched, text))

    def by_owner(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        found = Q(owner__in=owner_pks(words))
        if NONE in words:
            found |= Q(owner__isnull=True)
        return rows.filter(found)

    def by_word(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        found = Q(**{f"{name}__in": [word for word in words if word != NONE]})
        if NONE in words:
            found |= Q(**{f"{name}__isnull": True})
        return rows.filter(found)


class AccountFilter(MirrorFilter):
    searched = ("name",)
    industry = WordsFilter(method="by_word")
    country = WordsFilter(method="by_word")

    class Meta:
        model = Account
        fields: list[str] = []


class ContactFilter(MirrorFilter):
    searched = ("first_name", "last_name", "email")
    account = WordsFilter(method="by_account")

    class Meta:
        model = Contact
        fields: list[str] = []

    def by_account(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        numbers = numbers_in(words)
        accounts = Account.objects.filter(Q(pk__in=numbers) | Q(zoho_id__in=numbers))
        found = Q(account__in=accounts)
        if NONE in words:
            found |= Q(account__isnull=True)
        return rows.filter(found)


class LeadFilter(MirrorFilter):
    searched = ("first_name", "last_name", "company", "email")
    status = WordsFilter(method="by_word")
    lead_source = WordsFilter(method="by_word")
    is_converted = WordsFilter(choices=("true", "false"), method="by_flag")

    class Meta:
        model = Lead
        fields: list[str] = []

    def by_flag(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(**{f"{name}__in": [word == "true" for word in words]})


class UserFilter(django_filters.FilterSet):
    search = django_filters.CharFilter(method="by_search", max_length=200)
    status = WordsFilter(method="by_status")
    updated_since = MomentFilter(field_name="updated_at", lookup_expr="gte")

    class Meta:
        model = CrmUser
        fields: list[str] = []

    def by_search(self, rows: QuerySet, name: str, text: str) -> QuerySet:
        return rows.filter(containing(("name", "email"), text))

    def by_status(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(status__in=words)


class PipelineFilter(django_filters.FilterSet):
    class Meta:
        model = Pipeline
        fields: list[str] = []


class RunFilter(django_filters.FilterSet):
    """Sync runs by what they were and how they ended."""

    kind = WordsFilter(choices=ledger.KINDS, method="by_word")
    status = WordsFilter(choices=ledger.STATUSES, method="by_word")
    trigger = WordsFilter(choices=ledger.TRIGGERS, method="by_word")
    updated_since = MomentFilter(field_name="requested_at", lookup_expr="gte")

    class Meta:
        model = SyncRun
        fields: list[str] = []

    def by_word(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(**{f"{name}__in": words})
