"""What can go wrong with pilots."""

from core.errors import Conflict, Invalid, NotFound


class PilotNotFound(NotFound):
    """There is no such pilot, or it is not the reader's to see."""

    code = "pilot_not_found"


class PilotInvalid(Invalid):
    """A pilot's details break a rule; `fields` says which."""

    code = "pilot_invalid"


class MemberExists(Conflict):
    """The person is a member already."""

    code = "pilot_member_exists"
