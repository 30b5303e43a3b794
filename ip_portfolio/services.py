"""Changes to the portfolio."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from core.audit.services import audit_record
from core.security.permissions import require
from ip_portfolio.errors import ApplicationChanged, ApplicationInvalid, ApplicationNotFound
from ip_portfolio.models import PatentApplication

_TYPES = {
    "US": {"provisional", "nonprovisional"},
    "EP": {"regional"},
    "PCT": {"international"},
}
FIELDS = (
    "docket_number", "title", "jurisdiction", "type", "status", "inventors", "made_in", "foreign_filing_licence",
    "priority_date", "filing_date", "notes",
)  # fmt: skip
# Inventors of one application.
_MAX_INVENTORS = 100


def _checked(application: PatentApplication) -> PatentApplication:
    """Refuse details that break a rule, naming the field."""
    fields: dict[str, list[str]] = {}
    allowed = _TYPES.get(application.jurisdiction)
    if (
        allowed is not None
        and application.type in PatentApplication.Type.values
        and application.type not in allowed
    ):
        words = " or ".join(sorted(PatentApplication.Type(one).label.lower() for one in allowed))
        fields["type"] = [f"An application of {application.get_jurisdiction_display()} is {words}."]
    if application.type == "provisional" and application.priority_date is not None:
        # 35 USC 111(b)(7)
        fields["priority_date"] = ["A provisional application cannot claim priority from an earlier one."]
    if len(application.inventors) > _MAX_INVENTORS:
        fields["inventors"] = [f"Name at most {_MAX_INVENTORS} inventors."]
    for name in ("priority_date", "filing_date"):
        value = getattr(application, name)
        if isinstance(value, datetime.date) and not 1900 <= value.year <= 9000:
            fields[name] = ["Give a year between 1900 and 9000."]
    try:
        application.full_clean()
    except ValidationError as error:
        for name, messages in error.message_dict.items():
            for message in messages:
                # Constraints over several columns name no field: the one to look at follows from the sentence.
                key = (
                    ("docket_number" if "docket" in message else "filing_date") if name == "__all__" else name
                )
                fields.setdefault(key, []).append(message)
    if fields:
        raise ApplicationInvalid("Some details of the application need attention.", fields=fields)
    return application


def _names(inventors: Sequence[str]) -> list[str]:
    """Names without empty lines and repetitions, in the order given."""
    return list(dict.fromkeys(name for one in inventors if (name := " ".join(one.split()))))


@transaction.atomic
def application_create(**details: Any) -> PatentApplication:
    """Add an application; `details` as in FIELDS, docket_number, title, jurisdiction and type at least.

    Raises Forbidden, ApplicationInvalid.
    """
    require("ip.edit")
    _known(details)
    application = PatentApplication(**{**details, "inventors": _names(details.get("inventors", []))})
    try:
        with transaction.atomic():
            _checked(application).save()
    except IntegrityError as error:
        raise ApplicationInvalid(
            "Some details of the application need attention.",
            fields={"docket_number": ["Somebody just added an application with this docket number."]},
        ) from error
    audit_record(
        "patent.added",
        target=application,
        data={"jurisdiction": application.jurisdiction, "status": application.status},
    )
    return application


@transaction.atomic
def application_update(
    *, application: PatentApplication, revision: int | None = None, **details: Any
) -> PatentApplication:
    """Change an application.

    Args:
        revision: the one the editor saw; a later one refuses the change, so that nobody overwrites unseen.
    Raises:
        Forbidden, ApplicationNotFound, ApplicationChanged, ApplicationInvalid.
    """
    require("ip.edit")
    _known(details)
    locked = PatentApplication.objects.select_for_update().filter(pk=application.pk).first()
    if locked is None:
        raise ApplicationNotFound("This application was removed.")
    if revision is not None and revision != locked.revision:
        raise ApplicationChanged(
            f"Somebody saved {locked} after you opened it. Open it again to see what changed; nothing was overwritten."
        )
    if "inventors" in details:
        details["inventors"] = _names(details["inventors"])
    changed = [name for name, value in details.items() if getattr(locked, name) != value]
    if not changed:
        return locked
    for name in changed:
        setattr(locked, name, details[name])
    locked.revision += 1
    _checked(locked).save(update_fields=[*changed, "revision", "updated_at"])
    audit_record("patent.changed", target=locked, data={"fields": sorted(changed)})
    return locked


def _known(details: dict[str, Any]) -> None:
    unknown = set(details) - set(FIELDS)
    if unknown:
        raise TypeError(f"A patent application has no {sorted(unknown)}; it has {sorted(FIELDS)}.")
