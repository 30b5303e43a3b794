"""What can go wrong with a tenant's policies, in the words of whoever edits them."""

from __future__ import annotations

from core.errors import Conflict, Invalid, NotFound


class PolicyInvalid(Invalid):
    """The text cannot be stored as a version."""


class PolicyNotFound(NotFound):
    """There is no such version."""

    code = "policy_not_found"


class PolicyTestsFailed(Conflict):
    """The version does not compile, or its tests do not pass, so it cannot be put in force."""

    code = "policy_tests_failed"
    title = "This version cannot be put in force"


class ActivatedMeanwhile(Conflict):
    """Somebody else put another version in force at the same moment."""

    code = "policy_activated_meanwhile"
