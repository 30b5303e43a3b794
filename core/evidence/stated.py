"""Numbers that nobody's run measured: entered by a named person with the document they come from."""

from __future__ import annotations

import math

from django.db import transaction

from core.audit.services import audit_record
from core.errors import Invalid
from core.evidence.models import Measurement
from core.evidence.verdicts import metric_unit
from core.security.actor import current_actor
from core.security.permissions import require


@transaction.atomic
def measurement_state(
    *,
    subject_digest: str,
    metric: str,
    value: float,
    source: str,
    unit: str = "",
    dataset: str = "",
    slice: str = "",
    n: int = 0,
    low: float | None = None,
    high: float | None = None,
) -> Measurement:
    """Record a stated measurement of a release (its digest). It is shown as stated, never as measured.

    Args:
        source: the document the number comes from (title and place, or address).
        n: items behind it, 0 when the document does not say. low, high: its interval, both or neither.
    Raises:
        Forbidden, Invalid.
    """
    require("measurement.state")
    actor = current_actor()
    fields: dict[str, list[str]] = {}
    if not metric.strip() or len(metric) > 60:
        fields["metric"] = ["Name the metric in 1 to 60 characters."]
    if not source.strip() or len(source) > 300:
        fields["source"] = ["Name the document the number comes from, in 1 to 300 characters."]
    if not math.isfinite(value):
        fields["value"] = ["Must be a finite number."]
    if (low is None) != (high is None):
        fields["low"] = ["Give both ends of the interval, or neither."]
    elif low is not None and high is not None and not low <= value <= high:
        fields["low"] = ["The value must lie inside its interval."]
    if fields:
        raise Invalid("The number was not recorded.", fields=fields)
    measurement = Measurement.objects.create(
        subject_digest=subject_digest,
        metric=metric.strip(),
        dataset=dataset,
        slice=slice,
        value=value,
        unit=unit.strip() or metric_unit(metric),
        n=n,
        low=low,
        high=high,
        method="stated",
        provenance=Measurement.Provenance.STATED,
        stated_by=actor.label or "Signoff",
        source=source.strip(),
    )
    audit_record(
        "measurement.stated",
        target=measurement,
        data={"metric": measurement.metric, "subject": subject_digest},
    )
    return measurement
