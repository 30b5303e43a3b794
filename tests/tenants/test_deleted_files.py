"""Files of a deleted tenant go with it, so that a later tenant of the same short name does not find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tenants import services
from tests.tenants.test_provision import provision

pytestmark = pytest.mark.django_db


@pytest.fixture
def places(settings: Any, tmp_path: Path) -> list[Path]:
    """The model store and an import root, with files of two tenants in each."""
    settings.DATA_DIR = tmp_path
    settings.MODEL_STORE = tmp_path / "models"
    settings.MODEL_IMPORT_ROOTS = [str(tmp_path / "imports")]
    found = [settings.MODEL_STORE, tmp_path / "imports"]
    for place in found:
        for schema in ("gamma_west", "gamma"):
            (place / schema).mkdir(parents=True)
            (place / schema / "secret.gguf").write_text("weights")
    return found


def test_a_deleted_tenants_models_are_removed_and_nobody_elses(
    places: list[Path], as_system: Any, django_capture_on_commit_callbacks: Any
) -> None:
    tenant = provision()
    with django_capture_on_commit_callbacks(execute=True):
        services.tenant_delete(tenant=tenant, confirmation="Gamma")
    for place in places:
        assert sorted(path.name for path in place.iterdir()) == ["gamma"]


def test_files_outside_our_directory_are_left_to_whoever_runs_the_machine(
    places: list[Path], settings: Any, tmp_path: Path, as_system: Any, django_capture_on_commit_callbacks: Any
) -> None:
    settings.DATA_DIR = tmp_path / "elsewhere"
    tenant = provision()
    with django_capture_on_commit_callbacks(execute=True):
        services.tenant_delete(tenant=tenant, confirmation="Gamma")
    assert not (places[0] / "gamma_west").exists()
    assert (places[1] / "gamma_west").exists()
