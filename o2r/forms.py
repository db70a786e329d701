"""What people type on an opportunity's page: fields, their words, and what of it was changed.

Decides what can be read as a day, a time or an amount. Whether it is right is decided by
`o2r/services`, whose refusals are put beside the fields here. Each field sends along what it showed
when the form was opened: only what a person changed is said to the service, so that what somebody
else recorded meanwhile is not taken back by a field that nobody touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.conf import settings
from django.utils import timezone

from crm.errors import FieldsRefused
from crm.mapping.convert import decimals_of
from crm.models import CrmUser
from o2r.models import Activity
from o2r.models.milestones import STATUSES
from o2r.written import business, zone


class DayInput(forms.DateInput):
    input_type = "date"

    def __init__(self, **attrs: Any) -> None:
        super().__init__(attrs, format="%Y-%m-%d")


class DayField(forms.DateField):
    """A day, as the browser's own calendar gives it; other ways of writing are understood too."""

    widget = DayInput

    def __init__(self, label: str, **options: Any) -> None:
        options.setdefault("required", False)
        super().__init__(
            label=label,
            input_formats=["%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%d.%m.%Y"],
            error_messages={"invalid": "Write the day as 2026-10-12 or 12 Oct 2026."},
            show_hidden_initial=True,
            **options,
        )


class MomentInput(forms.DateTimeInput):
    input_type = "datetime-local"

    def format_value(self, value: Any) -> str | None:
        if isinstance(value, datetime):
            value = business(value) if timezone.is_aware(value) else value
            return value.strftime("%Y-%m-%dT%H:%M")
        return value


class MomentField(forms.Field):
    """Day and time in the business time zone."""

    widget = MomentInput

    def __init__(self, label: str, **options: Any) -> None:
        super().__init__(label=label, required=False, show_hidden_initial=True, **options)

    def to_python(self, value: Any) -> datetime | None:
        if value in (None, "") or isinstance(value, datetime):
            return value or None
        try:
            said = datetime.fromisoformat(str(value).strip())
        except ValueError as error:
            raise forms.ValidationError("Write the time as 2026-10-12 14:30.") from error
        if said.tzinfo is None:
            said = said.replace(tzinfo=zone(settings.BUSINESS_TIME_ZONE))
        return said

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.to_python(initial) != self.to_python(data)
        except forms.ValidationError:
            return True


class LinesField(forms.CharField):
    """Text of several lines."""

    def __init__(self, label: str, **options: Any) -> None:
        options.setdefault("required", False)
        rows = options.pop("rows", 3)
        super().__init__(
            label=label,
            widget=forms.Textarea({"rows": rows}),
            show_hidden_initial=True,
            **options,
        )


class ActForm(forms.Form):
    """`said()` is what to tell the service; refusals come back by `refuse`."""

    use_required_attribute = False
    # Shown only when the service has asked.
    confirm_early = forms.BooleanField(required=False, label="Yes, this day is right")
    version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    asks_early = False

    def fields_shown(self) -> Iterable[forms.BoundField]:
        return [self[name] for name in self.fields if name not in ("confirm_early", "version")]

    def said(self) -> dict[str, Any]:
        """By the names of the service: what was changed."""
        names = [each.name for each in self.fields_shown()]
        changed = set(self.changed_data)
        return {name: self.cleaned_data[name] for name in names if name in changed}

    def take_version(self, version: int) -> None:
        """The one to say next time: the person has been told what it brought."""
        data = self.data.copy()
        data["version"] = str(version)
        self.data = data

    def refuse(self, error: FieldsRefused) -> None:
        """The sentences beside their fields; one of a field that is not shown, above them."""
        for name, why in error.fields.items():
            name = {"milestone": "title", "currency": "amount"}.get(name, name)
            self.add_error(name if name in self.fields else None, why)


class MilestoneForm(ActForm):
    """One milestone. `currency` is that of its amount."""

    completed_on = DayField("Completed on", help_text="Empty: not yet. Today or earlier.")
    target_on = DayField("Target", help_text="The day for which it is planned.")
    status = forms.ChoiceField(
        label="Status", choices=STATUSES, required=False, show_hidden_initial=True
    )
    reason = LinesField("What blocks it", rows=2, help_text="Needed for a blocked one.")
    amount = forms.DecimalField(
        label="Amount, if only a part", required=False, show_hidden_initial=True, max_digits=18
    )
    note = LinesField("Note", rows=2)

    def __init__(self, *args: Any, currency: str, is_own_amount: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.currency = currency
        self.fields["amount"].decimal_places = decimals_of(currency)
        self.fields["amount"].label = f"Amount in {currency}, if only a part"
        self.fields["amount"].widget = forms.TextInput({"inputmode": "decimal"})
        if not is_own_amount:
            del self.fields["amount"]
        self.fields["completed_on"].widget.attrs["autofocus"] = True

    def offer_today(self, today: date) -> None:
        """Today stands in the empty field, as a change that only has to be confirmed."""
        self.fields["completed_on"].widget.attrs["value"] = today.isoformat()

    def clean_amount(self) -> Decimal | None:
        amount = self.cleaned_data["amount"]
        if amount is not None and amount < 0:
            raise forms.ValidationError("An amount is not negative.")
        places = decimals_of(self.currency)
        if amount is not None and amount != round(amount, places):
            raise forms.ValidationError(f"{self.currency} has {places} decimals.")
        return amount

    def said(self) -> dict[str, Any]:
        said = super().said()
        if "amount" in said:
            amount = said.pop("amount")
            minor = None if amount is None else int(amount.scaleb(decimals_of(self.currency)))
            said["amount_minor"] = minor
            if minor is not None:
                said["currency"] = self.currency
        if not said.get("status", "x"):
            del said["status"]
        return {**said, "confirm_early": self.cleaned_data["confirm_early"]}


class OwnMilestoneForm(ActForm):
    title = forms.CharField(
        label="Name", required=False, widget=forms.TextInput({"autofocus": True})
    )
    target_on = DayField("Target", help_text="The day for which it is planned.")
    note = LinesField("Note", rows=2)


class ItemForm(ActForm):
    text = LinesField("What is to be done", rows=2)
    owner = forms.ModelChoiceField(
        CrmUser.objects.order_by("name", "pk"),
        label="Whose",
        required=False,
        empty_label="Nobody's yet",
        show_hidden_initial=True,
    )
    due_on = DayField("Due")


class ActivityForm(ActForm):
    type = forms.ChoiceField(label="Kind", choices=Activity.TYPES, show_hidden_initial=True)
    description = LinesField("What it is about")
    scheduled_at = MomentField("Planned for")
    completed_at = MomentField("Happened", help_text="Empty: still to come.")
    outcome = forms.ChoiceField(
        label="How it went",
        choices=[("", "–"), *Activity.OUTCOMES],
        required=False,
        show_hidden_initial=True,
    )


class ReviewForm(ActForm):
    decision = forms.CharField(
        label="Decision", required=False, widget=forms.TextInput({"autocomplete": "off"})
    )
    note = LinesField("Note")


class BlockForm(ActForm):
    reason = LinesField("What blocks it")


class SnoozeForm(ActForm):
    until = DayField("Alerts come again on")
    reason = forms.CharField(label="Why it may wait", required=False)


def with_defaults(form: type[ActForm], said: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a form that makes something new, whether it was touched or not."""
    names = [name for name in form.base_fields if name not in ("confirm_early", "version")]
    return {name: said.get(name) for name in names}
