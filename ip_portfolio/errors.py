"""What can go wrong with patent applications."""

from core.errors import Conflict, Invalid, NotFound


class ApplicationNotFound(NotFound):
    """There is no such application."""

    code = "patent_application_not_found"


class ApplicationInvalid(Invalid):
    """An application's details break a rule; `fields` says which."""

    code = "patent_application_invalid"


class ApplicationChanged(Conflict):
    """Somebody saved the application after it was opened here."""

    code = "patent_application_changed"
