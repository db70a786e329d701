"""Filter values as an address gives them: words, ids, people, times. For every filter set.

Decides what a list of values may look like; which filters exist is said by the filter sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any

import django_filters
from django import forms
from django.db import connection
from django.db.models import F, Func, Q, QuerySet, TextField
from django.db.models.lookups import Contains, Exact
from django_filters.fields import IsoDateTimeField

from crm.mapping.convert import FIRST_YEAR, LAST_YEAR, MAX_ID
from crm.models import CrmUser

# Stands for "none given" where an empty value would mean "not filtered".
NONE = "-"
# More in one filter would make a query that SQLite refuses to read, and no person gives so many.
MAX_WORDS = 100


class WordsWidget(forms.TextInput):
    """Several values: repeated, or separated by commas; a comma within one is written `\\,`."""

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[str] | None:
        if name not in data:
            return None
        given = data.getlist(name) if hasattr(data, "getlist") else [data[name]]
        return [word.strip() for each in given for word in split_words(str(each))]


def split_words(text: str) -> list[str]:
    return [word.replace("\\,", ",") for word in re.split(r"(?<!\\),", text)]


def joinable(word: str) -> str:
    """The word as it stands in an address: its own commas do not separate."""
    return word.replace(",", "\\,")


class WordsField(forms.Field):
    widget = WordsWidget

    def __init__(self, *, choices: Iterable[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.choices = frozenset(choices) if choices is not None else None

    def clean(self, value: list[str] | None) -> list[str]:
        """Each word once. Raises ValidationError for too many, or for one that cannot be."""
        words = list(dict.fromkeys(word for word in value or [] if word))
        if len(words) > MAX_WORDS:
            raise forms.ValidationError(f"At most {MAX_WORDS} values; these are {len(words)}.")
        for word in words:
            if len(word) > 255 or "\x00" in word:
                raise forms.ValidationError("A value is too long or holds a NUL.")
            if self.choices is not None and word not in self.choices:
                raise forms.ValidationError(
                    f"“{word[:40]}” is not one of {', '.join(sorted(self.choices))}."
                )
        return words


class WordsFilter(django_filters.Filter):
    field_class = WordsField


class Casefold(Func):
    """Text without case, by the function that `crm/apps.py` gives SQLite."""

    function = "CASEFOLD"
    arity = 1
    output_field = TextField()


def containing(columns: Iterable[str], text: str) -> Q:
    """Rows with `text` as a part of any of these columns, case ignored in every script."""
    return reduce(or_, (_without_case(column, Contains, text) for column in columns))


def _without_case(column: str, lookup: type[Contains | Exact], text: str) -> Q:
    if connection.vendor == "sqlite" and not text.isascii():
        # SQLite's LIKE knows upper and lower case of ASCII alone.
        return Q(lookup(Casefold(F(column)), text.casefold()))
    return Q(**{f"{column}__i{lookup.lookup_name}": text})


class MomentField(IsoDateTimeField):
    """A time with its offset, as UTC; without one it is taken for UTC."""

    def clean(self, value: Any) -> datetime | None:
        # An offset's plus sign that was not escaped arrives as a space.
        text = re.sub(r" (\d\d:?\d\d)$", r"+\1", value) if isinstance(value, str) else value
        moment = super().clean(text)
        if moment is None:
            return None
        try:
            moment = moment.astimezone(UTC)
        except OverflowError:
            moment = None
        if moment is None or not FIRST_YEAR <= moment.year <= LAST_YEAR:
            raise forms.ValidationError(f"Years {FIRST_YEAR} to {LAST_YEAR} are known.")
        return moment


class MomentFilter(django_filters.Filter):
    field_class = MomentField


def is_number(word: str) -> bool:
    """Whether the word can be an id: of ours, or the CRM's nineteen digits."""
    return word.isascii() and word.isdigit() and len(word) <= 19 and int(word) <= MAX_ID


def numbers_in(words: Iterable[str]) -> list[int]:
    return [int(word) for word in words if is_number(word)]


def users_named(words: Iterable[str]) -> QuerySet:
    """CRM users by our key, by the CRM's id or by e-mail."""
    words = [word for word in words if word != NONE]
    numbers = numbers_in(words)
    if not words:
        return CrmUser.objects.none()
    found = Q(pk__in=numbers) | Q(zoho_id__in=numbers)
    for word in words:
        if "@" in word:
            found |= _without_case("email", Exact, word)
    return CrmUser.objects.filter(found)


def owner_pks(words: Iterable[str]) -> list[int]:
    """Keys of the CRM users named."""
    return list(users_named(words).values_list("pk", flat=True))
