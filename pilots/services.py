"""Changes to pilots and who may see them."""

from __future__ import annotations

import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction

from core.audit.services import audit_record
from core.evidence.models import Gate
from core.security.permissions import require
from inference.models import Product, Release
from pilots.errors import MemberExists, PilotInvalid, PilotNotFound
from pilots.models import Customer, Pilot, PilotMember


def _lock(pilot_id: int) -> Pilot:
    pilot = Pilot.objects.select_for_update().filter(pk=pilot_id).first()
    if pilot is None:
        raise PilotNotFound(f"There is no pilot {pilot_id}. It may have been removed.")
    return pilot


def _checked(pilot: Pilot) -> Pilot:
    """Refuse a pilot that breaks a rule, naming the field."""
    fields: dict[str, list[str]] = {}
    if pilot.release.product_id != pilot.product_id:
        fields["release"] = [
            f"{pilot.release} is a release of another product. Choose one of {pilot.product}."
        ]
    if pilot.gate_slug and not Gate.objects.filter(slug=pilot.gate_slug).exists():
        fields["gate"] = [f"There is no gate named {pilot.gate_slug!r}."]
    try:
        pilot.full_clean()
    except ValidationError as error:
        for name, messages in error.message_dict.items():
            fields.setdefault("ends_on" if name == "__all__" else name, []).extend(messages)
    if fields:
        raise PilotInvalid("Some details of the pilot need attention.", fields=fields)
    return pilot


@transaction.atomic
def pilot_create(
    *,
    customer: str,
    product: Product,
    release: Release,
    starts_on: datetime.date,
    gate_slug: str = "",
    ends_on: datetime.date | None = None,
    goal: str = "",
    status: str = Pilot.Status.PLANNED,
) -> Pilot:
    """Set up a pilot for the customer of this name, who is added when new.

    Args:
        gate_slug: gate whose criteria are the success criteria; empty when none is agreed yet.
    Raises:
        Forbidden, PilotInvalid (release of another product, unknown gate, end before start).
    """
    require("pilot.edit")
    name = " ".join(customer.split())
    if not name or len(name) > 120:
        raise PilotInvalid(
            "The pilot needs a customer.",
            fields={"customer": ["Give the customer's name, up to 120 characters."]},
        )
    owner = Customer.objects.filter(name__iexact=name).first()
    if owner is None:
        owner = Customer.objects.create(name=name)
    pilot = _checked(
        Pilot(
            customer=owner,
            product=product,
            release=release,
            gate_slug=gate_slug,
            goal=goal.strip(),
            status=status,
            starts_on=starts_on,
            ends_on=ends_on,
        )
    )
    pilot.save()
    audit_record(
        "pilot.created", target=pilot, data={"release": str(release), "gate": gate_slug, "customer": owner}
    )
    return pilot


@transaction.atomic
def pilot_update(*, pilot: Pilot, **changes: Any) -> Pilot:
    """Change release, gate_slug, goal, status, starts_on or ends_on. Raises Forbidden, PilotNotFound, PilotInvalid."""
    require("pilot.edit")
    allowed = {"release", "gate_slug", "goal", "status", "starts_on", "ends_on"}
    unknown = set(changes) - allowed
    if unknown:
        raise TypeError(f"pilot_update() cannot change {sorted(unknown)}; it changes {sorted(allowed)}.")
    locked = _lock(pilot.pk)
    changed = {name: value for name, value in changes.items() if getattr(locked, name) != value}
    if not changed:
        return locked
    for name, value in changed.items():
        setattr(locked, name, value)
    _checked(locked).save(update_fields=list(changed))
    audit_record("pilot.changed", target=locked, data={name: str(value) for name, value in changed.items()})
    return locked


@transaction.atomic
def pilot_member_add(*, pilot: Pilot, user: Any) -> PilotMember:
    """Let a person with the role customer see this pilot's scorecard.

    Raises Forbidden, PilotNotFound, PilotInvalid (another role, or an inactive person), MemberExists.
    """
    require("pilot.edit")
    locked = _lock(pilot.pk)
    if not isinstance(user, get_user_model()) or not user.is_active or "customer" not in user.roles:
        raise PilotInvalid(
            "Only an active person with the role customer can be a member of a pilot.",
            fields={
                "user": ["Choose an active person with the role customer, or give them that role first."]
            },
        )
    member, added = PilotMember.objects.get_or_create(pilot=locked, user=user)
    if not added:
        raise MemberExists("This person is a member of the pilot already.")
    audit_record("pilot.member_added", target=locked, data={"member": user})
    return member


@transaction.atomic
def pilot_member_remove(*, pilot: Pilot, member_id: int) -> None:
    """Take a person's access to this pilot away; without effect when it is gone already."""
    require("pilot.edit")
    locked = _lock(pilot.pk)
    member = PilotMember.objects.select_related("user").filter(pilot=locked, pk=member_id).first()
    if member is None:
        return
    user = member.user
    member.delete()
    audit_record("pilot.member_removed", target=locked, data={"member": user})
