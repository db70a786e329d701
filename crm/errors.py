"""What can go wrong with the mirror, said so that a person knows what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crm.models import SyncRun


class CrmError(Exception):
    """Base: `code` for machines, `message` one sentence for people, without secrets."""

    code = "crm_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SyncUnderWay(CrmError):
    """A full or delta sync is queued or running; `run` is that run."""

    code = "sync_under_way"

    def __init__(self, run: SyncRun) -> None:
        since = run.started_at or run.requested_at
        super().__init__(
            f"A {run.kind} sync is under way since {since:%H:%M} UTC (run {run.pk}); "
            "it can be watched, and another started when it has ended."
        )
        self.run = run


class CrmNotConfigured(CrmError):
    """No CRM settings at all."""

    code = "not_configured"

    def __init__(self) -> None:
        super().__init__(
            "No CRM is connected: set ZOHO_CLIENT_ID, ZOHO_CLIENT_SECRET, ZOHO_REFRESH_TOKEN and "
            "ZOHO_DC (see .env.example), then start again."
        )


class CrmUnreachable(CrmError):
    """The CRM is known to be down or refuses us: starting a sync now would only fail.

    `retry_after_s` is None when waiting does not help: a person has to connect again.
    """

    code = "crm_unreachable"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OtherOrganisation(CrmError):
    """The credentials lead to another organisation than the one mirrored."""

    code = "other_organisation"

    def __init__(self, mirrored: str, found: str) -> None:
        super().__init__(
            f"These credentials belong to the CRM organisation {found}, but this installation "
            f"mirrors {mirrored}. Use the credentials of {mirrored}, or a new installation "
            "with its own database."
        )


class LeaseLost(CrmError):
    """Another process took the run over: what this one still holds must not be written."""

    code = "superseded"

    def __init__(self) -> None:
        super().__init__("Another process has taken this run over.")


class NotSynced(CrmError):
    """A delta was asked for before the first full sync."""

    code = "never_synced"


class FieldsRefused(CrmError):
    """An edit that cannot be kept; `fields` names each field with the sentence why."""

    code = "fields_refused"

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(f"{name}: {why}" for name, why in fields.items()))
        self.fields = fields


class EditConflict(CrmError):
    """Somebody changed the record after it was shown; nothing of the edit is kept."""

    code = "stale_version"


class RecordGone(CrmError):
    """The record is deleted, here or in the CRM: it cannot be changed."""

    code = "record_gone"


class CreateNotPossible(CrmError):
    """The CRM lacks the field that makes creating from here safe to repeat."""

    code = "create_not_possible"


class NotInConflict(CrmError):
    """The entry is not, or no longer, what was decided about."""

    code = "not_in_conflict"


class WriteBackOff(CrmError):
    """Asked to send while the switch is off or on preview, or was killed."""

    code = "write_back_off"

    def __init__(self) -> None:
        super().__init__(
            "Write-back is not switched on: changes are kept here and wait. Ops can switch it on."
        )


class WriteBackForcedOff(CrmError):
    """WRITE_BACK=off is set in the environment: no switch overrides it."""

    code = "write_back_forced_off"

    def __init__(self) -> None:
        super().__init__(
            "Write-back is switched off by WRITE_BACK=off in the environment. Remove it there and "
            "start again, then switch it on here."
        )


class NoWebhookAddress(CrmError):
    """The CRM could not call us, or could not prove who calls."""

    code = "no_webhook_address"
