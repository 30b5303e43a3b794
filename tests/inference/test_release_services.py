"""Products, releases and channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django_tenants.utils import schema_context

from core.errors import Forbidden
from core.security.actor import SYSTEM, use_actor
from inference.errors import (
    ChannelConflict,
    EvaluationInvalid,
    LimitReached,
    ProductExists,
    ProductInvalid,
    ReleaseExists,
    ReleaseImmutable,
    ReleaseInvalid,
    ReleaseNotFound,
)
from inference.models import ModelVersion, Product, Release
from inference.selectors import release_resolve
from inference.services import (
    channel_set,
    dataset_import,
    evaluation_plan,
    product_create,
    release_create,
)
from tenants.models import Plan
from tenants.resolver import forget


@pytest.fixture(autouse=True)
def _as_signoff(db: None) -> Iterator[None]:
    with use_actor(SYSTEM):
        yield


@pytest.fixture
def product() -> Product:
    return product_create(slug="assistant", name="Assistant")


@pytest.fixture
def model() -> ModelVersion:
    return ModelVersion.objects.create(name="M", digest="sha256:" + "a" * 64)


def _release(product: Product, model: ModelVersion, version: str = "1.0.0", **config: Any) -> Release:
    return release_create(product=product, version=version, model_version=model, config=config)


def test_a_release_is_addressed_by_its_content_and_not_its_name(
    product: Product, model: ModelVersion
) -> None:
    first = _release(product, model)
    same = _release(product, model, "1.0.1")
    other = _release(product, model, "1.1.0", decoding={"max_tokens": 5})
    assert first.digest == same.digest != other.digest
    assert other.config["decoding"]["max_tokens"] == 5 and other.config["prompt"]["template"] == "{input}"


def test_a_stored_release_cannot_be_changed_or_deleted(product: Product, model: ModelVersion) -> None:
    release = _release(product, model)
    release.notes = "better"
    for change in (release.save, release.delete):
        with pytest.raises(ReleaseImmutable):
            change()
    for behind in (lambda: Release.objects.update(notes="x"), lambda: Release.objects.all().delete()):
        with pytest.raises(DatabaseError), transaction.atomic():
            behind()


@pytest.mark.parametrize(
    "version", ["", "1", "v1.0.0", "1.0", "01.0.0", "1.0.0-", "1.0.0 ", "1.0.0\n", "9" * 70]
)
def test_only_semantic_versions_are_taken(product: Product, model: ModelVersion, version: str) -> None:
    if version.strip() == "1.0.0":
        assert _release(product, model, version).version == "1.0.0"
        return
    with pytest.raises(ReleaseInvalid) as refused:
        _release(product, model, version)
    assert "version" in refused.value.fields


def test_a_version_is_used_once(product: Product, model: ModelVersion) -> None:
    _release(product, model)
    with pytest.raises(ReleaseExists):
        _release(product, model)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"prompt": {"template": "no place for the item"}}, "config.prompt_template"),
        ({"prompt": {"template": "{nonsense}"}}, "config.prompt_template"),
        ({"prompt": {"template": "{input}", "chat": "yes"}}, "config.prompt.chat"),
        ({"prompt": {"template": "{input}", "chat": True, "system": 5}}, "config"),
        ({"prompt": 5}, "config.prompt"),
        ({"decoding": {"temperature": -1}}, "config.temperature"),
        ({"decoding": {"top_p": float("nan")}}, "config.top_p"),
        ({"decoding": {"stop": "x"}}, "config.stop"),
        ({"wings": 2}, "config.wings"),
        ({"guard_version": 5}, "config.guard_version"),
        ({"target_delimiter": None}, "config.target_delimiter"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_wrong_configuration_is_named_by_field(
    product: Product, model: ModelVersion, config: dict[str, Any], field: str
) -> None:
    with pytest.raises(ReleaseInvalid) as refused:
        _release(product, model, **config)
    assert field in refused.value.fields and not Release.objects.exists()


def test_products_have_short_names_of_their_own() -> None:
    product_create(slug="a-b", name="A")
    with pytest.raises(ProductExists):
        product_create(slug="a-b", name="B")
    for slug in ("", "A", "a_b", "-a", "a" * 61):
        with pytest.raises(ProductInvalid):
            product_create(slug=slug, name="C")


def test_the_plans_limits_hold(product: Product, model: ModelVersion, alpha: Any) -> None:
    _release(product, model)
    with schema_context("public"):
        Plan.objects.filter(pk=alpha.plan_id).update(max_products=1, max_releases=1)
        forget()
    with pytest.raises(LimitReached):
        product_create(slug="second", name="Second")
    with pytest.raises(LimitReached):
        _release(product, model, "2.0.0")


def test_people_name_a_release_as_they_like(product: Product, model: ModelVersion) -> None:
    release = _release(product, model)
    for text in ("assistant/1.0.0", "1.0.0", str(release.pk), release.digest, release.digest[:20]):
        assert release_resolve(text).pk == release.pk
    for text in ("", "2.0.0", "other/1.0.0", "sha256:ffffff", "99999999999999999999", "a\x00b"):
        with pytest.raises(ReleaseNotFound):
            release_resolve(text)
    _release(product, model, "1.0.1")
    with pytest.raises(ReleaseNotFound, match="several"):
        release_resolve(release.digest)


def test_channel_weights_stay_within_a_hundred_percent(product: Product, model: ModelVersion) -> None:
    first, second = _release(product, model), _release(product, model, "1.1.0")
    channel_set(product=product, environment="production", release=first, weight=90)
    channel_set(product=product, environment="production", name="canary", release=second, weight=10)
    with pytest.raises(ChannelConflict):
        channel_set(product=product, environment="production", name="canary", release=second, weight=11)
    moved = channel_set(product=product, environment="production", release=second, weight=50)
    assert moved.release == second and product.channels.count() == 2


def test_a_channel_takes_releases_of_its_product_only(product: Product, model: ModelVersion) -> None:
    other = _release(product_create(slug="other", name="Other"), model)
    with pytest.raises(ChannelConflict):
        channel_set(product=product, environment="staging", release=other)


def test_an_auditor_changes_nothing(product: Product, model: ModelVersion, acting: Any, bob: Any) -> None:
    acting(bob)
    with pytest.raises(Forbidden):
        _release(product, model)
    with pytest.raises(Forbidden):
        product_create(slug="x", name="X")


def test_a_plan_follows_from_release_dataset_and_sample_alone(product: Product, model: ModelVersion) -> None:
    release = _release(product, model)
    rows = b"".join(b'{"id": "%d", "text": "Text %d.", "split": "validation"}\n' % (n, n) for n in range(9))
    version = dataset_import(slug="mine", file=rows, format="jsonl").version
    plan = evaluation_plan(release=release, dataset_version=version, sample_size=5, seed=7)

    assert plan.total_items == 5 and plan.plan["sample"] == {"split": "", "n": 5, "seed": 7}
    assert plan.plan["latency"]["n"] == 0  # plain text is no query
    same_content = _release(product, model, "1.0.1")
    again = evaluation_plan(release=same_content, dataset_version=version, sample_size=5, seed=7)
    assert again.digest == plan.digest
    assert evaluation_plan(release=release, dataset_version=version, sample_size=50).total_items == 9


@pytest.mark.parametrize(
    ("change", "field"),
    [({"sample_size": -1}, "sample_size"), ({"seed": 2**63}, "seed"), ({"split": "train"}, "split"),
     ({"latency_items": True}, "latency_items"), ({"latency_max_tokens": 0}, "latency_max_tokens")],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_an_evaluation_that_cannot_be_is_refused_by_field(
    product: Product, model: ModelVersion, change: dict[str, Any], field: str
) -> None:
    version = dataset_import(slug="mine", file=b'{"text": "One."}', format="jsonl").version
    with pytest.raises(EvaluationInvalid) as refused:
        evaluation_plan(**{"release": _release(product, model), "dataset_version": version, **change})
    assert field in refused.value.fields
