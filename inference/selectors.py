"""Reading products, models, datasets and releases. Lookups raise the app's NotFound errors, never
DoesNotExist."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from django.db.models import Count, Max, Q, QuerySet

from inference.errors import (
    DatasetNotFound,
    ModelVersionNotFound,
    ProductNotFound,
    RegistrationNotFound,
    ReleaseNotFound,
)
from inference.models import (
    Channel,
    Dataset,
    DatasetItem,
    DatasetVersion,
    ModelVersion,
    Product,
    Registration,
    Release,
)

_DIGEST = re.compile(r"^sha256:[0-9a-f]{6,64}$")
# Largest value of a bigint key; a larger number in an address is no id.
_MAX_ID = 2**63 - 1


def product_list() -> QuerySet[Product]:
    """Products by name, with `release_count`."""
    return Product.objects.annotate(release_count=Count("releases")).order_by("name")


def product_get(slug: str) -> Product:
    """Raises ProductNotFound."""
    product = Product.objects.filter(slug=slug).first() if "\x00" not in slug else None
    if product is None:
        raise ProductNotFound(f"There is no product “{slug[:80]}” in this tenant.")
    return product


def release_list(*, product: Product | None = None) -> QuerySet[Release]:
    """Releases, newest first, with product and model loaded."""
    found = Release.objects.select_related("product", "model_version").order_by("-created_at", "-id")
    return found.filter(product=product) if product is not None else found


def release_get(release_id: int | str) -> Release:
    """By primary key. Raises ReleaseNotFound."""
    key = _key(release_id)
    release = release_list().filter(pk=key).first() if key else None
    if release is None:
        raise ReleaseNotFound("There is no such release in this tenant.")
    return release


def release_resolve(text: str) -> Release:
    """The release a person means: `product/1.2.0`, `1.2.0` (when one product has it), an id, or (a beginning
    of at least six digits of) `sha256:…`.

    Raises ReleaseNotFound, saying what there is or that the name is not unique.
    """
    text = text.strip()
    found = release_list()
    if "\x00" in text:
        raise ReleaseNotFound("There is no such release in this tenant.")
    slug, separator, version = text.rpartition("/")
    if _DIGEST.match(text):
        found = found.filter(digest__startswith=text)
    elif separator:
        found = found.filter(product__slug=slug, version=version)
    else:
        key = _key(text)
        found = found.filter(Q(version=text) | Q(pk=key)) if key else found.filter(version=text)
    matches = list(found[:2])
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ReleaseNotFound(f"“{text[:80]}” fits several releases. Say which as product/version.")
    known = [f"{one.product.slug}/{one.version}" for one in release_list()[:5]]
    raise ReleaseNotFound(
        f"There is no release “{text[:80]}” in this tenant. "
        + (f"There are, for example: {', '.join(known)}." if known else "There are no releases yet.")
    )


def release_by_digest(digest: str) -> Release | None:
    """The newest release with this content, or None."""
    return release_list().filter(digest=digest).first()


def channel_list(*, product: Product | None = None) -> QuerySet[Channel]:
    """Channels with their releases."""
    found = Channel.objects.select_related("product", "release", "release__model_version")
    return found.filter(product=product) if product is not None else found


def model_list() -> QuerySet[ModelVersion]:
    """Model versions, newest first, with `release_count` and parent loaded."""
    return ModelVersion.objects.select_related("parent").annotate(release_count=Count("releases"))


def model_get(model_id: int | str) -> ModelVersion:
    """By primary key. Raises ModelVersionNotFound."""
    key = _key(model_id)
    model = model_list().filter(pk=key).first() if key else None
    if model is None:
        raise ModelVersionNotFound("There is no such model version in this tenant.")
    return model


def model_resolve(text: str) -> ModelVersion:
    """The model version a person means: an id, (a beginning of) its digest, or its name when unique.

    Raises ModelVersionNotFound.
    """
    text = text.strip()
    found = ModelVersion.objects.all()
    if "\x00" in text:
        raise ModelVersionNotFound("There is no such model version in this tenant.")
    if _DIGEST.match(text):
        found = found.filter(digest__startswith=text)
    else:
        key = _key(text)
        found = found.filter(Q(name=text) | Q(pk=key)) if key else found.filter(name=text)
    matches = list(found[:2])
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ModelVersionNotFound(f"“{text[:80]}” fits several model versions. Give its id or digest.")
    known = list(ModelVersion.objects.values_list("name", flat=True)[:5])
    raise ModelVersionNotFound(
        f"There is no model version “{text[:80]}” in this tenant. "
        + (f"There are, for example: {', '.join(known)}." if known else "There are none yet.")
    )


def dataset_list() -> QuerySet[Dataset]:
    """Datasets by slug, with `version_count` and `latest_version` (a number, None without versions)."""
    return Dataset.objects.annotate(
        version_count=Count("versions"), latest_version=Max("versions__version")
    ).order_by("slug")


def dataset_get(slug: str) -> Dataset:
    """Raises DatasetNotFound."""
    dataset = dataset_list().filter(slug=slug).first() if "\x00" not in slug else None
    if dataset is None:
        known = list(Dataset.objects.values_list("slug", flat=True)[:8])
        raise DatasetNotFound(
            f"There is no dataset “{slug[:80]}” in this tenant. "
            + (f"There are, for example: {', '.join(known)}." if known else "There are none yet.")
        )
    return dataset


def dataset_version_get(slug: str, version: int | None = None) -> DatasetVersion:
    """One version of a dataset, the newest without a number. Raises DatasetNotFound."""
    dataset = dataset_get(slug)
    versions = DatasetVersion.objects.select_related("dataset").filter(dataset=dataset)
    if version is not None:
        versions = versions.filter(version=version) if 0 < version < 2**31 else versions.none()
    found = versions.order_by("-version").first()
    if found is None:
        which = f"version {version}" if version is not None else "version"
        raise DatasetNotFound(f"{dataset.name} has no {which}.")
    return found


def dataset_items(
    dataset_version: DatasetVersion, *, split: str = "", slice_name: str = ""
) -> QuerySet[DatasetItem]:
    """Items in the order of the file, of one split or slice if named."""
    found = dataset_version.items.order_by("ordinal")
    if split:
        found = found.filter(split=split)
    return found.filter(slices__contains=[slice_name]) if slice_name else found


def items_by_key(dataset_digest: str, keys: list[str]) -> Mapping[str, DatasetItem]:
    """Items of the version with this digest, by key, for showing beside a run's results."""
    version = DatasetVersion.objects.filter(digest=dataset_digest).first()
    if version is None:
        return {}
    return {item.key: item for item in version.items.filter(key__in=keys)}


def registration_get(registration_id: str | uuid.UUID) -> Registration:
    """Raises RegistrationNotFound, also for text that is no id."""
    try:
        return Registration.objects.select_related("model_version").get(pk=uuid.UUID(str(registration_id)))
    except (Registration.DoesNotExist, ValueError):
        raise RegistrationNotFound("There is no such registration in this tenant.") from None


def registration_list() -> QuerySet[Registration]:
    """Newest first."""
    return Registration.objects.select_related("model_version").order_by("-created_at")


def _key(value: int | str) -> int | None:
    """A primary key from an address, or None when it cannot be one."""
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        return None
    number = int(text)
    return number if 0 < number <= _MAX_ID else None
