"""Making and changing gates: what is accepted, what is refused and where, and what makes a version."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import Conflict, Forbidden, Invalid, NotFound
from core.evidence.models import Criterion, Gate
from core.security.actor import SYSTEM, use_actor
from inference.gates import (
    gate_as_dict,
    gate_create,
    gate_default,
    gate_for_product,
    gate_get,
    gate_plan,
    gate_revise,
)
from inference.models import Dataset
from tests.inference.gate_data import make_dataset, make_release, make_world

pytestmark = pytest.mark.django_db

RULE = {"type": "non_inferiority", "margin": 0.05}
GOOD: dict[str, Any] = {"metric": "accuracy", "dataset": "questions", "rule": RULE}


@pytest.fixture(autouse=True)
def _as_system() -> Any:
    with use_actor(SYSTEM):
        yield


@pytest.fixture
def questions() -> Any:
    return make_dataset("questions", Dataset.Kind.MULTIPLE_CHOICE, 20)


def test_a_criterion_is_completed_from_its_metric(questions: Any) -> None:
    gate = gate_create(slug="g", title="G", criteria=[GOOD], alpha=0.1)
    criterion = gate.criteria.get()
    assert criterion.key == "questions-accuracy"
    assert criterion.rule == {**RULE, "direction": "higher_is_better", "scale": "difference"}
    assert (criterion.alpha, criterion.severity, criterion.owner_role) == (0.1, "blocking", "engineer")


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"metric": "beauty"}, "metric", "not a metric"),
        ({"metric": "exact_match"}, "metric", "yields no exact_match"),
        ({"dataset": "answers"}, "dataset", "There are: questions"),
        ({"dataset": ""}, "dataset", "Choose the dataset"),
        ({"rule": None}, "rule", "object"),
        ({"rule": {"margin": 0}}, "rule.margin", "above 0"),
        ({"rule": {"margin": "NaN"}}, "rule.margin", "finite"),
        ({"rule": {"margin": 1.5}}, "rule.margin", "allows anything"),
        ({"rule": {"margin": 0.1, "scale": "ratio"}}, "rule.scale", "difference"),
        ({"rule": {"margin": 0.1, "statistic": "p95"}}, "rule.statistic", "only the mean"),
        ({"rule": {"type": "bound", "bound": 7}}, "rule.bound", "share from 0 to 1"),
        ({"rule": {"margin": 0.1, "colour": "red"}}, "rule.colour", "not known"),
        ({"alpha": 0.9}, "alpha", "between"),
        ({"power": 0}, "power", "between"),
        ({"max_age_days": 0}, "max_age_days", "whole number"),
        ({"sample_size": 2.5}, "sample_size", "whole number"),
        ({"severity": "fatal"}, "severity", "not known"),
        ({"owner_role": "customer"}, "owner_role", "not known"),
        ({"playbook": "Not A Slug"}, "playbook", "slug"),
        ({"colour": "red"}, "colour", "not known"),
    ],
)
def test_a_wrong_field_is_named(questions: Any, change: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        gate_create(slug="g", title="G", criteria=[{**GOOD, **change}])
    assert words in " ".join(refused.value.fields[f"criteria.0.{field}"])
    assert not Gate.objects.exists()


@pytest.mark.parametrize("criteria", [[], None, "abc", ["abc"], [GOOD, GOOD], [GOOD] * 61])
def test_unusable_lists_of_criteria_are_refused(questions: Any, criteria: Any) -> None:
    with pytest.raises(Invalid):
        gate_create(slug="g", title="G", criteria=criteria)


def test_a_taken_name_is_a_conflict_and_an_unknown_one_lists_what_exists(questions: Any) -> None:
    gate_create(slug="g", title="G", criteria=[GOOD])
    with pytest.raises(Conflict):
        gate_create(slug="g", title="G", criteria=[GOOD])
    with pytest.raises(NotFound, match="There are: g"):
        gate_get("h")


def test_a_change_makes_the_next_version_and_leaves_the_old_one(questions: Any) -> None:
    first = gate_create(slug="g", title="G", criteria=[GOOD])
    assert gate_revise(**gate_as_dict(first)).pk == first.pk
    second = gate_revise(slug="g", title="G", criteria=[{**GOOD, "rule": {"margin": 0.01}}])
    assert (second.version, first.criteria.get().rule["margin"]) == (2, 0.05)
    assert second.digest != first.digest


def test_only_some_roles_may_edit(questions: Any, acting: Any) -> None:
    acting(roles=("auditor",))
    with pytest.raises(Forbidden):
        gate_create(slug="g", title="G", criteria=[GOOD])


def test_the_default_gate_pairs_each_accuracy_with_a_canary() -> None:
    world = make_world()
    datasets = [make_dataset("mc", "multiple_choice").dataset, make_dataset("gen", "generation").dataset]
    datasets += [make_dataset("txt", "text").dataset, make_dataset("ref", "reference").dataset]
    gate = gate_default(product=world.product, datasets=datasets, playbook="rollback")
    found = {(c.dataset, c.metric): c for c in gate.criteria.all()}
    blocking = {key for key, c in found.items() if c.severity == Criterion.Severity.BLOCKING}
    assert blocking == {
        ("mc", "accuracy"),
        ("mc", "nll_gold"),
        ("gen", "exact_match"),
        ("txt", "nll_text"),
        ("ref", "nll_gold"),
    }
    assert {("gen", "latency_ms"), ("gen", "cost_usd")} == set(found) - blocking
    assert gate_for_product(world.product).pk == gate.pk and gate.version == 2
    assert gate_default(product=world.product, datasets=datasets, playbook="rollback").pk == gate.pk


# ------------------------------------------------------------------ before the run
def test_power_is_stated_before_the_run_and_grows_with_n() -> None:
    from inference.gates import criterion_power

    world = make_world()
    criterion = world.gate.criteria.get(metric="accuracy")
    small, large = criterion_power(criterion, 50), criterion_power(criterion, 1000)
    assert small.power is not None and large.power is not None and small.mde and large.mde
    assert small.power < large.power and small.mde > large.mde
    assert "assumed" in small.basis and "plan more items" in small.sentence
    assert criterion_power(criterion, 0).power is None


def test_the_plan_takes_the_largest_sample_a_dataset_needs_and_times_only_when_asked() -> None:
    world = make_world(
        [
            {**GOOD, "sample_size": 50},
            {"metric": "nll_gold", "dataset": "questions", "rule": {"margin": 0.1}, "sample_size": 80},
        ]
    )
    plan = gate_plan(world.gate, world.candidate, world.baseline)
    assert [(one.role, one.n, one.latency_items) for one in plan.evaluations] == [
        ("candidate", 80, 0),
        ("baseline", 80, 0),
    ]
    timed = {
        "metric": "latency_ms",
        "dataset": "questions",
        "rule": {"margin": 1, "scale": "ratio", "statistic": "p95"},
    }
    gate = gate_create(slug="timed", title="T", criteria=[timed])
    assert gate_plan(gate, world.candidate, world.baseline).evaluations[0].latency_items == 59


def test_a_pair_that_says_nothing_is_refused() -> None:
    world = make_world()
    with pytest.raises(Invalid, match="both candidate and baseline"):
        gate_plan(world.gate, world.candidate, world.candidate)
    from inference.models import Product

    other = make_release(Product.objects.create(slug="other", name="Other"), "1.0.0")
    with pytest.raises(Invalid, match="different products"):
        gate_plan(world.gate, world.candidate, other)
