"""What can go wrong with people and keys."""

from __future__ import annotations

from core.errors import Conflict, Invalid, NotFound, TooMany


class AccountInvalid(Invalid):
    """An address, name, role, password, scope or expiry breaks a rule; `fields` says which."""

    code = "account_invalid"


class UserExists(Conflict):
    """The e-mail address belongs to a user of this tenant already."""

    code = "user_exists"
    title = "This user exists already"


class UserNotFound(NotFound):
    """No such user in this tenant."""

    code = "user_not_found"


class LastAdmin(Conflict):
    """The tenant would be left without anybody who can manage it."""

    code = "last_admin"
    title = "Somebody has to remain admin"


class KeyNotFound(NotFound):
    """No such API key in this tenant."""

    code = "key_not_found"


class PlanLimit(TooMany):
    """The plan allows no more of these."""

    code = "plan_limit"
    title = "The plan's limit is reached"


class PasswordGuesses(TooMany):
    """The password was re-entered wrongly too often; it is not looked at for a while."""

    code = "password_guesses"
    title = "Too many wrong passwords"
