"""What governance refuses, one class per reaction a caller might have."""

from core.errors import Conflict, Forbidden, Invalid, NotFound


class ReviewClosed(Conflict):
    """The review is decided or withdrawn."""

    code = "review_closed"
    title = "This review is closed"


class NotReady(Conflict):
    """Evidence or entrance criteria are missing for the position asked for."""

    code = "not_ready"
    title = "This review is not ready"


class AlreadySigned(Conflict):
    """This person's signature over this evidence is there already."""

    code = "already_signed"
    title = "You have already signed"


class EvidenceChanged(Conflict):
    """The evidence is not what the signer was shown; `extra["difference"]` lists what moved."""

    code = "evidence_changed"
    title = "The evidence changed since you opened it"


class WrongPassword(Forbidden):
    """The password re-entered for signing is not the signer's."""

    code = "wrong_password"
    title = "The password is not right"


class OwnRequest(Forbidden):
    """Nobody approves what they requested."""

    code = "own_request"
    title = "Somebody else has to approve this"


class NotYourRole(Forbidden):
    """The signer does not hold the role they want to sign as."""

    code = "not_your_role"
    title = "You do not hold this role"


__all__ = [
    "AlreadySigned",
    "EvidenceChanged",
    "Invalid",
    "NotFound",
    "NotReady",
    "NotYourRole",
    "OwnRequest",
    "ReviewClosed",
    "WrongPassword",
]
