"""What inference adds to the search and the command palette."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse

from core.security.permissions import can
from core.ui import palette
from core.ui.palette import Hit
from inference.models import Dataset, ModelVersion, Release


def find_releases(request: HttpRequest, words: str) -> Iterable[Hit]:
    """Releases by product, version or digest."""
    if not can("release.view") or "\x00" in words:
        return []
    found = Release.objects.select_related("product").order_by("-created_at")
    for word in words.split()[:5]:
        found = found.filter(
            Q(version__icontains=word) | Q(product__name__icontains=word) | Q(digest__icontains=word)
        )
    return [
        Hit(str(one), reverse("inference:release_detail", args=[one.pk]), "Release", "package")
        for one in found[:6]
    ]


def find_models(request: HttpRequest, words: str) -> Iterable[Hit]:
    """Model versions by name or digest."""
    if not can("model.view") or "\x00" in words:
        return []
    found = ModelVersion.objects.filter(Q(name__icontains=words) | Q(digest__icontains=words))
    return [
        Hit(one.name, reverse("inference:model_detail", args=[one.pk]), "Model", "box") for one in found[:6]
    ]


def find_datasets(request: HttpRequest, words: str) -> Iterable[Hit]:
    """Datasets by name."""
    if not can("dataset.view") or "\x00" in words:
        return []
    found = Dataset.objects.filter(Q(name__icontains=words) | Q(slug__icontains=words))
    return [
        Hit(one.name, reverse("inference:dataset_detail", args=[one.slug]), "Dataset", "database")
        for one in found[:6]
    ]


palette.register("releases", find_releases)
palette.register("models", find_models)
palette.register("datasets", find_datasets)
