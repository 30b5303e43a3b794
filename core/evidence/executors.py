"""Executors: how a run of one kind is carried out. The kernel owns leases, storing, resuming and state.

A measuring job is one executor registered for its kind (in its app's `AppConfig.ready`)::

    executors.register(Run.Kind.EVALUATION, EvaluationExecutor())

The kernel calls `open` once per attempt in the worker, asks the session for batches of the items that are not
stored yet, stores each batch, and calls `summarise` over the stored rows when all are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from core.evidence.errors import RunKindUnknown


@dataclass(frozen=True, slots=True)
class RunView:
    """The frozen facts of a run that an executor may use."""

    id: str
    kind: str
    subject_digest: str
    subject_label: str
    dataset_slug: str
    dataset_digest: str
    plan: Mapping[str, Any]
    seed: int
    total_items: int


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What a run found on one item: fields of a RunItem, as values.

    metrics: None where the model gave no finite number, and `notes` says why. latency_ms: None when this item
    was not timed. compute_s: this item's share of measured engine seconds.
    """

    key: str
    ordinal: int
    metrics: Mapping[str, float | None]
    slices: Sequence[str] = ()
    output: str = ""
    notes: str = ""
    latency_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    compute_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MeasurementDraft:
    """A Measurement before it has a row. `value` is None exactly when nothing could be measured."""

    metric: str
    value: float | None
    unit: str
    n: int
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    method: str = ""
    slice: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """What follows from the stored items: measurements, and totals for `Run.summary` (JSON-able)."""

    measurements: Sequence[MeasurementDraft]
    totals: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """One attempt at a run, in the worker."""

    def environment(self) -> Mapping[str, Any]:
        """JSON-able facts that change results or timings: engine, dtype, CPU, threads, versions."""
        ...

    def execute(self, done: frozenset[str]) -> Iterator[Sequence[ItemResult]]:
        """Yield batches of results for the items whose key is not in `done`, in the plan's order.

        Lazily: the kernel stores a batch, and looks whether it still may go on, before it asks for the next.
        """
        ...

    def close(self) -> None:
        """Give back what the session holds. Calling it twice is harmless."""
        ...


class Executor(Protocol):
    """How one kind of run is carried out."""

    def open(self, run: RunView) -> Session:
        """Load what the run needs. Raises ExecutorFailure, or a DomainError, with a sentence for people."""
        ...

    def summarise(
        self, run: RunView, items: Sequence[ItemResult], *, by_slice: bool = True, quick: bool = False
    ) -> Summary:
        """Measurements over these items: a pure function, the same for the same items in any order.

        quick: cheap intervals for the provisional numbers of a run in progress.
        """
        ...


_registry: dict[str, Executor] = {}


def register(kind: str, executor: Executor) -> None:
    """Carry out runs of `kind` by `executor`. Registering a kind again replaces it (tests do)."""
    _registry[str(kind)] = executor


def registered() -> tuple[str, ...]:
    """Kinds that can be run, sorted."""
    return tuple(sorted(_registry))


def executor_for(kind: str) -> Executor:
    """The executor of a kind. Raises RunKindUnknown."""
    try:
        return _registry[str(kind)]
    except KeyError:
        known = ", ".join(registered()) or "none"
        raise RunKindUnknown(
            f"Runs of kind “{kind}” cannot be carried out here. Kinds that can: {known}.",
            fields={"kind": [f"Choose one of: {known}."]},
        ) from None
