"""Changes to people and API keys of the tenant (or of the operators' site) that the connection stands in."""

from __future__ import annotations

import json
import logging
import secrets
import zoneinfo
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import password_validation
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils import timezone
from django_tenants.utils import get_public_schema_name

import core.security
from core.security.actor import Actor, current_actor
from core.security.permissions import require
from tenants.accounts.errors import (
    AccountInvalid,
    KeyNotFound,
    LastAdmin,
    PasswordGuesses,
    UserExists,
    UserNotFound,
)
from tenants.accounts.keys import key_generate, secret_digest
from tenants.accounts.models import TENANT_ROLES, ApiKey, Role, User
from tenants.audit import audit_record
from tenants.db import connection

logger = logging.getLogger("signoff.accounts")

# No letters that look alike; a person may have to type it once.
_PASSWORD_ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # noqa: S105


def password_generate() -> str:
    """A random password to hand out: 20 characters (over 115 bits) in groups of five."""
    return "-".join("".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(5)) for _ in range(4))


def _invalid(field: str, message: str) -> AccountInvalid:
    return AccountInvalid(message, fields={field: [message]})


def check_email(value: str, *, field: str = "email") -> str:
    """The address in lower case. Raises AccountInvalid."""
    email = value.strip().lower()
    try:
        validate_email(email)
        if len(email) > 254:
            raise ValidationError("too long")
    except ValidationError:
        raise _invalid(
            field, f"{value.strip()[:80]!r} is not an e-mail address. Example: name@example.com"
        ) from None
    return email


def check_password(value: str, *, email: str, name: str, field: str = "password") -> str:
    """The password, when it passes every validator of the settings. Raises AccountInvalid with all reasons."""
    try:
        password_validation.validate_password(value, user=User(email=email, name=name))
    except ValidationError as error:
        raise AccountInvalid(" ".join(error.messages), fields={field: list(error.messages)}) from None
    return value


def password_is_right(*, user: User, password: str) -> bool:
    """Whether a signed-in person re-entered their password rightly, for signing or changing it.

    Wrong ones are counted as at sign-in: whoever found an open session must not find the password by trying.
    The count is in the cache (per schema), because the refusal rolls the database back. Raises PasswordGuesses
    after AXES_FAILURE_LIMIT wrong ones, until AXES_COOLOFF_TIME has passed since the first.
    """
    name = f"password-guesses:{user.pk}"
    cache.add(name, 0, timeout=max(1, round(settings.AXES_COOLOFF_TIME * 3600)))
    try:
        # Counted before it is looked at, so that guesses made at once are counted too.
        guesses = cache.incr(name)
    except ValueError:  # expired between the two calls
        guesses = 1
    if guesses > settings.AXES_FAILURE_LIMIT:
        logger.warning("too many wrong passwords re-entered", extra={"user_id": user.pk})
        minutes = max(1, round(settings.AXES_COOLOFF_TIME * 60))
        message = (
            f"A wrong password was re-entered {settings.AXES_FAILURE_LIMIT} times. Wait {minutes} minutes, then try "
            "again. Nothing was changed."
        )
        raise PasswordGuesses(message)
    if not user.check_password(password):
        return False
    cache.delete(name)
    return True


def check_name(value: str, *, field: str = "name") -> str:
    """1 to 120 printable characters. Raises AccountInvalid."""
    name = " ".join(value.split())
    if not name or len(name) > 120 or not name.isprintable():
        raise _invalid(field, f"The name must have 1 to 120 printable characters; it has {len(name)}.")
    return name


def check_roles(values: Iterable[str]) -> list[str]:
    """Roles without repetition, in the order of Role. Raises AccountInvalid for an unknown or missing one."""
    wanted = set(values)
    allowed = (Role.OPERATOR.value,) if _in_public() else TENANT_ROLES
    unknown = sorted(wanted - set(allowed))
    if unknown:
        raise _invalid("roles", f"Unknown role: {', '.join(unknown)}. Roles here: {', '.join(allowed)}.")
    if not wanted:
        raise _invalid("roles", "Give the user at least one role.")
    return [role for role in allowed if role in wanted]


def check_time_zone(value: str) -> str:
    """An IANA time zone, for example Europe/Berlin. Raises AccountInvalid."""
    if value not in zoneinfo.available_timezones():
        raise _invalid("time_zone", f"{value[:60]!r} is not a time zone. Example: Europe/Berlin")
    return value


def _in_public() -> bool:
    return bool(connection.schema_name == get_public_schema_name())


def user_get(user_id: int) -> User:
    """The user of this tenant with this id. Raises UserNotFound."""
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise UserNotFound("There is no such user here.")
    return user


def _locked(user: User) -> User:
    found = User.objects.select_for_update().filter(pk=user.pk).first()
    if found is None:
        raise UserNotFound("There is no such user here.")
    return found


@transaction.atomic
def user_create(
    *,
    email: str,
    name: str,
    roles: Iterable[str],
    password: str,
    must_change_password: bool = True,
    time_zone: str = "UTC",
) -> User:
    """Add a person. The password is one that was handed out unless `must_change_password` is False.

    Raises:
        AccountInvalid, UserExists, PlanLimit, Forbidden.
    """
    require("user.manage")
    from tenants.selectors import limit_require

    email, name, chosen = check_email(email), check_name(name), check_roles(roles)
    check_password(password, email=email, name=name)
    # Two creations at once would both see room for one; the count is made under the lock.
    _lock_accounts()
    limit_require("max_users", User.objects.filter(is_active=True).count())
    user = User(
        email=email, name=name, roles=chosen, must_change_password=must_change_password,
        time_zone=check_time_zone(time_zone),
    )  # fmt: skip
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save()
    except IntegrityError as error:
        message = f"There is a user with the e-mail address {email} already."
        raise UserExists(message, fields={"email": [message]}) from error
    audit_record("user.created", target=user, data={"roles": chosen})
    return user


def _lock_accounts() -> None:
    """Serialise changes that look at all users (limits, last admin) within this schema."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"accounts:{connection.schema_name}"]
        )


def _refuse_losing_last_admin(user: User) -> None:
    """Raise LastAdmin when nobody else can manage users. Call it under the accounts lock."""
    role = Role.OPERATOR if _in_public() else Role.ADMIN
    others = User.objects.filter(is_active=True, roles__contains=[role]).exclude(pk=user.pk)
    if user.is_active and role in user.roles and not others.exists():
        raise LastAdmin(
            f"{user.name} is the last active {role.label.lower()}. Give somebody else this role first, then try again."
        )


@transaction.atomic
def user_update(
    *, user: User, name: str | None = None, roles: Iterable[str] | None = None, is_active: bool | None = None
) -> User:
    """Change name, roles or whether the person may sign in. Sessions of a deactivated person end at once.

    Raises:
        AccountInvalid, LastAdmin, PlanLimit, UserNotFound, Forbidden.
    """
    require("user.manage")
    from tenants.selectors import limit_require

    _lock_accounts()
    user = _locked(user)
    changed: dict[str, Any] = {}
    if name is not None and check_name(name) != user.name:
        changed["name"] = check_name(name)
    if roles is not None and (chosen := check_roles(roles)) != user.roles:
        changed["roles"] = chosen
    if is_active is not None and is_active != user.is_active:
        changed["is_active"] = is_active
    admin = Role.OPERATOR if _in_public() else Role.ADMIN
    if ("roles" in changed and admin not in changed["roles"]) or changed.get("is_active") is False:
        _refuse_losing_last_admin(user)
    if changed.get("is_active") is True:
        limit_require("max_users", User.objects.filter(is_active=True).count())
    if not changed:
        return user
    before = {"roles": user.roles, "is_active": user.is_active}
    for field, value in changed.items():
        setattr(user, field, value)
    user.save(update_fields=list(changed))
    if "roles" in changed:
        audit_record("user.roles_changed", target=user, data={"before": before["roles"], "after": user.roles})
    if "is_active" in changed:
        audit_record("user.activated" if user.is_active else "user.deactivated", target=user)
    if "name" in changed:
        audit_record("user.renamed", target=user)  # the name itself is personal data
    return user


@transaction.atomic
def user_reset_password(*, user: User) -> str:
    """Give the person a new random password, returned once; they must change it when they sign in.

    Ends all their sessions. Raises UserNotFound, Forbidden.
    """
    require("user.manage")
    user = _locked(user)
    password = password_generate()
    user.set_password(password)
    user.must_change_password = True
    user.save(update_fields=["password", "must_change_password"])
    audit_record("user.password_reset", target=user)
    return password


@transaction.atomic
def password_change(*, user: User, current: str, new: str) -> User:
    """Change one's own password. Raises AccountInvalid (wrong current password, or a weak or unchanged new one),
    PasswordGuesses."""
    user = _locked(user)
    if not password_is_right(user=user, password=current):
        raise _invalid("current", "This is not your current password. Nothing was changed.")
    if user.check_password(new):
        raise _invalid("new", "The new password is the current one. Choose another.")
    check_password(new, email=user.email, name=user.name, field="new")
    user.set_password(new)
    user.must_change_password = False
    user.save(update_fields=["password", "must_change_password"])
    audit_record("user.password_changed", target=user)
    return user


@transaction.atomic
def profile_update(*, user: User, name: str, time_zone: str) -> User:
    """Change one's own name and time zone. Raises AccountInvalid."""
    user = _locked(user)
    name, time_zone = check_name(name), check_time_zone(time_zone)
    fields = [
        field for field, value in (("name", name), ("time_zone", time_zone)) if getattr(user, field) != value
    ]
    user.name, user.time_zone = name, time_zone
    if fields:
        user.save(update_fields=fields)
        audit_record("user.profile_changed", target=user, data={"fields": fields})
    return user


# ------------------------------------------------------------------ API keys
class IssuedKey(NamedTuple):
    """A new key and its full text, which exists nowhere else from now on."""

    key: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"IssuedKey({self.key})"  # never the text


def scope_choices() -> list[str]:
    """Every scope the policy knows: actions, one pattern per noun, and *.view. Sorted.

    Taken from the policy's own data, so that an action added there can be given to a key here.
    """
    data = json.loads((Path(core.security.__path__[0]) / "permissions_data.json").read_text())
    # A key of the operators' site may hold what operators may do, one of a tenant what its roles may do.
    refused = set(data["person_only"]) | (set() if _in_public() else set(data["operator_only"]))
    actions: set[str] = set()
    for role, grants in data["roles"].items():
        if (role == "operator") == _in_public():
            actions |= {grant for grant in grants if "*" not in grant}
    actions -= refused
    return sorted(actions | {f"{action.split('.')[0]}.*" for action in actions} | {"*.view"})


def check_scopes(values: Iterable[str]) -> list[str]:
    """Scopes without repetition, sorted. Raises AccountInvalid for one the policy does not know."""
    wanted = sorted({value.strip() for value in values if value.strip()})
    known = set(scope_choices())
    unknown = [scope for scope in wanted if scope not in known]
    if unknown:
        raise _invalid(
            "scopes",
            f"Unknown scope: {', '.join(unknown)[:200]}. A scope is an action such as release.view, all actions on one "
            "thing such as run.*, or *.view.",
        )
    if not wanted:
        raise _invalid("scopes", "Choose at least one scope; a key without one can do nothing.")
    return wanted


@transaction.atomic
def api_key_create(
    *, name: str, scopes: Iterable[str], expires_at: datetime | None = None, created_by: User | None = None
) -> IssuedKey:
    """Issue a key. Its text is in the answer and nowhere else.

    Args:
        scopes: actions, `noun.*` or `*.view`. Nobody can put more into a key than they may do themselves.
        expires_at: aware, in the future; None never expires.
        created_by: who answers for the key; by default the person who acts. It rests while they are deactivated.
    Raises:
        AccountInvalid, PlanLimit, Forbidden.
    """
    require("key.manage")
    from tenants.selectors import limit_require

    name, chosen = check_name(name)[:80], check_scopes(scopes)
    _refuse_more_than_own(chosen)
    if expires_at is not None and expires_at <= timezone.now():
        raise _invalid("expires_at", "The key would be expired at once. Choose a later date.")
    _lock_accounts()
    now = timezone.now()
    active = ApiKey.objects.filter(revoked_at__isnull=True).exclude(expires_at__lte=now).count()
    limit_require("max_api_keys", active)
    text = key_generate(connection.schema_name)
    key = ApiKey.objects.create(
        name=name, key_id=text.key_id, secret_sha256=secret_digest(text.secret), scopes=chosen,
        created_by=created_by or person_behind(current_actor()), expires_at=expires_at,
    )  # fmt: skip
    audit_record(
        "key.created", target=key,
        data={"key_id": key.key_id, "scopes": chosen, "expires_at": expires_at.isoformat() if expires_at else None},
    )  # fmt: skip
    return IssuedKey(key, str(text))


def person_behind(actor: Actor) -> User | None:
    """Who answers for what an actor does: the person, for a key whoever issued it; None for a process."""
    if actor.kind in {"user", "operator"}:
        return User.objects.filter(pk=actor.id).first() if actor.id.isdecimal() else None
    if actor.kind == "api_key":
        key = ApiKey.objects.select_related("created_by").filter(key_id=actor.id).first()
        return key.created_by if key is not None else None
    return None


def _refuse_more_than_own(scopes: list[str]) -> None:
    """A key that issues keys must not hand out what it does not have."""
    actor = current_actor()
    if actor.kind != "api_key":
        return
    beyond = [scope for scope in scopes if not _covered(scope, actor.scopes)]
    if beyond:
        raise _invalid("scopes", f"This API key cannot give scopes it does not have: {', '.join(beyond)}.")


def _covered(scope: str, own: tuple[str, ...]) -> bool:
    noun, verb = scope.split(".")
    return scope in own or f"{noun}.*" in own or (f"*.{verb}" in own and noun != "*")


@transaction.atomic
def api_key_revoke(*, key_id: str) -> ApiKey:
    """Refuse the key from now on. Doing it twice changes nothing. Raises KeyNotFound, Forbidden."""
    require("key.manage")
    key = ApiKey.objects.select_for_update().filter(key_id=key_id).first()
    if key is None:
        raise KeyNotFound("There is no such API key here.")
    if key.revoked_at is None:
        key.revoked_at = timezone.now()
        key.save(update_fields=["revoked_at"])
        audit_record("key.revoked", target=key, data={"key_id": key.key_id})
    return key
