"""A real executor that is quick and predictable: its items are numbers, its metric their share of even
ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from core.evidence import executors
from core.evidence.executors import ItemResult, MeasurementDraft, RunView, Summary
from core.evidence.models import Run
from core.evidence.services import RunCreated, run_create
from core.security.actor import SYSTEM, use_actor


class CountingSession:
    """Yields batches of two; calls `before_batch` with the keys before each, so that a test can interfere."""

    def __init__(self, run: RunView, executor: CountingExecutor) -> None:
        self._run, self._executor = run, executor

    def environment(self) -> Mapping[str, Any]:
        return {"engine": "counting"}

    def execute(self, done: frozenset[str]) -> Iterator[Sequence[ItemResult]]:
        waiting = [number for number in range(self._run.total_items) if f"item-{number}" not in done]
        for start in range(0, len(waiting), 2):
            numbers = waiting[start : start + 2]
            self._executor.worked_on += [f"item-{number}" for number in numbers]
            if self._executor.before_batch is not None:
                self._executor.before_batch(numbers)
            yield [
                ItemResult(
                    key=f"item-{number}",
                    ordinal=number,
                    metrics={"even": float(number % 2 == 0)},
                    slices=("low",) if number < 3 else ("high",),
                    compute_s=0.5,
                )
                for number in numbers
            ]

    def close(self) -> None:
        self._executor.closed += 1


class CountingExecutor:
    def __init__(self, before_batch: Callable[[list[int]], None] | None = None) -> None:
        self.before_batch = before_batch
        self.worked_on: list[str] = []
        self.closed = 0

    def open(self, run: RunView) -> CountingSession:
        return CountingSession(run, self)

    def summarise(
        self, run: RunView, items: Sequence[ItemResult], *, by_slice: bool = True, quick: bool = False
    ) -> Summary:
        values = [item.metrics["even"] or 0.0 for item in items]
        share = sum(values) / len(values) if values else None
        return Summary(
            [MeasurementDraft("even", share, "share", len(values))],
            {"compute_s": sum(item.compute_s for item in items)},
        )


def counting(before_batch: Callable[[list[int]], None] | None = None) -> CountingExecutor:
    """Carry out smoke runs by a new counting executor."""
    executor = CountingExecutor(before_batch)
    executors.register(Run.Kind.SMOKE, executor)
    return executor


def smoke_run(items: int = 6, **more: Any) -> RunCreated:
    """A run of `items` numbers, as Signoff itself."""
    with use_actor(SYSTEM):
        return run_create(
            **{
                "kind": Run.Kind.SMOKE,
                "subject_digest": "sha256:subject",
                "subject_label": "Numbers 1.0.0",
                "plan": {"items": items},
                "total_items": items,
                **more,
            }
        )
