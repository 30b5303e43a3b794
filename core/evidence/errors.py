"""What the evidence kernel refuses, one class per reaction a caller might have."""

from __future__ import annotations

from core.errors import Conflict, Invalid, NotFound, TooMany


class RunNotFound(NotFound):
    """There is no such run in this tenant."""

    code = "run_not_found"


class RunKindUnknown(Invalid):
    """No executor is registered for this kind of run."""

    code = "run_kind_unknown"


class RunPlanInvalid(Invalid):
    """The plan has no canonical form, or measures nothing."""

    code = "run_plan_invalid"


class RunStateRefuses(Conflict):
    """The run is in a state that does not allow this."""

    code = "run_state"


class RunLimitReached(TooMany):
    """The plan's number of runs per day is used up."""

    code = "run_limit"


class LeaseLost(Exception):
    """This worker no longer holds the run: another took it over, or it ended. Nothing may be written."""


class ExecutorFailure(Exception):
    """An executor cannot go on; the message is a full sentence for the person who started the run."""
