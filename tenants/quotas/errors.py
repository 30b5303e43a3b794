"""What can be wrong with a limit or a key's place."""

from core.errors import Invalid, NotFound


class LimitInvalid(Invalid):
    """A limit breaks a rule; `fields` says which."""

    code = "limit_invalid"


class LimitNotFound(NotFound):
    """There is no such limit."""

    code = "limit_not_found"
    title = "There is no such limit"


class PlacementInvalid(Invalid):
    """A key cannot stand there; `fields` says why."""

    code = "placement_invalid"
