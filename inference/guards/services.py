"""Writing guard profiles: a version is added, never changed; and trying one on a text that is not kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, transaction

from core.audit.services import audit_record
from core.errors import Conflict
from core.schema import current_schema
from core.security.actor import current_actor
from core.security.permissions import require
from core.security.redaction import Vault
from inference.guards.config import BUILT_IN, GuardConfig, GuardConfigError
from inference.guards.errors import InvalidProfile
from inference.guards.guardset import GuardSet
from inference.guards.models import GuardProfile
from inference.guards.selectors import profile_get, tenant_hash_key
from inference.guards.verdicts import GuardVerdict

MAX_TRY_CHARS = 20_000
MAX_CONFIG_BYTES = 200_000


def config_checked(config: Any) -> GuardConfig:
    """A configuration ready to run. Raises InvalidProfile naming every field at fault."""
    try:
        text = json.dumps(config, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        raise InvalidProfile(
            "The configuration is not JSON.", fields={"config": ["This is not JSON."]}
        ) from None
    if len(text) > MAX_CONFIG_BYTES or "\\u0000" in text:
        raise InvalidProfile(
            "The configuration cannot be stored.",
            fields={"config": [f"At most {MAX_CONFIG_BYTES:,} characters, without null characters."]},
        )
    if not isinstance(config, Mapping):
        raise InvalidProfile(
            "The configuration cannot be used.", fields={"config": ["It must be an object."]}
        )
    try:
        return GuardConfig.from_dict(config)
    except GuardConfigError as error:
        problems = [f"{where}: {sentence}" for where, found in error.fields.items() for sentence in found]
        raise InvalidProfile("The profile was not saved.", fields={"config": problems[:20]}) from None


def profile_save(*, name: str, config: Any, note: str = "") -> GuardProfile:
    """Store the next version of a profile. The content of the newest version again is that version.

    Raises InvalidProfile, Conflict when somebody saves at the same time.
    """
    require("guard.edit")
    checked = config_checked(config)
    reserved = {reference.partition("@")[0] for reference in BUILT_IN}
    if name in reserved:
        raise InvalidProfile(
            "The profile was not saved.",
            fields={"name": [f"{name} belongs to the profiles every tenant has; choose another name."]},
        )
    if len(note) > 300 or "\x00" in note:
        raise InvalidProfile("The profile was not saved.", fields={"note": ["At most 300 characters."]})
    with transaction.atomic():
        newest = GuardProfile.objects.select_for_update().filter(name=name).order_by("-version").first()
        if newest is not None and newest.digest == checked.digest:
            return newest
        actor = current_actor()
        profile = GuardProfile(
            name=name,
            version=(newest.version if newest else 0) + 1,
            config=checked.as_dict(),
            digest=checked.digest,
            note=note,
            created_by_id=str(actor.id)[:64],
            created_by_label=actor.label[:120],
        )
        _ensure_name(name)
        try:
            with transaction.atomic():
                profile.save()
        except IntegrityError as error:
            raise Conflict("Somebody saved this profile at the same time. Save again.") from error
        audit_record(
            "guard_profile.saved", target=profile, data={"version": profile.version, "digest": checked.digest}
        )
    return profile


def _ensure_name(name: str) -> None:
    import re

    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise InvalidProfile(
            "The profile was not saved.",
            fields={"name": ["A name is 1 to 40 small letters, digits or -, and begins with a letter."]},
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """What a profile does with a text. Nothing of it is stored."""

    text: str
    counts: dict[str, int]
    blocked: str | None
    verdicts: list[GuardVerdict] = field(default_factory=list)
    hold_back: dict[str, int] = field(default_factory=dict)


def profile_try(*, text: str, reference: str = "", config: Any = None, direction: str = "input") -> Trial:
    """Redact a text with a saved profile or an unsaved configuration, and ask its guards. The text is not kept."""
    require("guard.edit")
    if len(text) > MAX_TRY_CHARS:
        raise InvalidProfile(
            "The text is too long to try.", fields={"text": [f"At most {MAX_TRY_CHARS:,} characters."]}
        )
    if direction not in ("input", "output"):
        raise InvalidProfile("The direction is unknown.", fields={"direction": ["input or output."]})
    if config is None:
        view = profile_get(reference)
        checked, name = GuardConfig.from_dict(view.config), view.reference
    else:
        checked, name = config_checked(config), "unsaved"
    guards = GuardSet(name, checked, tenant_hash_key(current_schema()))
    verdicts = guards.check_input([text]) if direction == "input" else guards.check_output(text)
    redactor = guards.redactor_in if direction == "input" else guards.redactor_out
    result = redactor.redact(text, Vault())
    refused = next((one.guard for one in verdicts if one.action == "block"), None)
    blocked = result.blocked or refused
    return Trial("" if blocked else result.text, dict(result.counts), blocked, verdicts, guards.hold_back())
