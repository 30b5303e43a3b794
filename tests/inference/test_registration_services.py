"""Registering model versions: what is refused, where from, and how a request shows its state."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import Forbidden
from core.security.actor import SYSTEM, use_actor
from inference.errors import ModelInvalid, RegistrationNotFound
from inference.models import ModelVersion, Registration
from inference.registration import (
    import_candidates,
    import_path,
    import_roots,
    registration_execute,
    tenant_store,
)
from inference.services import model_register, model_register_upload, registration_start


@pytest.fixture(autouse=True)
def _as_signoff(db: None, settings: Any, tmp_path: Path) -> Iterator[None]:
    settings.MODEL_STORE = tmp_path / "models"
    settings.MODEL_IMPORT_ROOTS = [str(tmp_path / "imports")]
    with use_actor(SYSTEM):
        yield


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, tiny, untrained Llama with a tokenizer, as `save_pretrained` writes it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("small") / "small-llama"
    words = ["<unk>", "<eos>", *"abcdefghijklmnopqrstuvwxyz.,", "H", "the", "world"]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>").save_pretrained(
        directory
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(directory, safe_serialization=True)
    return directory


def _zip(files: dict[str, bytes], *, link: str = "") -> io.BytesIO:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
    packed.seek(0)
    return packed


def _files(directory: Path, folder: str = "") -> dict[str, bytes]:
    return {folder + path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def _left_behind() -> list[Path]:
    return list((tenant_store().root / "uploads").glob("*"))


def test_a_directory_becomes_a_model_version_once(small_model: Path) -> None:
    made = model_register(path=small_model, name="Small", licence="CC0", within_import_roots=False)
    again = model_register(path=small_model, name="Other name", within_import_roots=False)
    assert made.created and not again.created and again.model_version.pk == made.model_version.pk
    model = made.model_version
    assert (model.name, model.licence, model.architecture) == ("Small", "CC0", "LlamaForCausalLM")
    assert model.digest.startswith("sha256:") and tenant_store().has(model.digest)


def test_an_uploaded_zip_gives_the_same_model_version_as_the_directory(small_model: Path) -> None:
    made = model_register(path=small_model, within_import_roots=False).model_version
    for folder in ("", "my model/"):
        upload = model_register_upload(file=_zip(_files(small_model, folder)), file_name="model.zip")
        assert upload.model_version.pk == made.pk and not upload.created
    assert _left_behind() == []


@pytest.mark.parametrize(
    ("files", "link", "says"),
    [
        ({"../evil": b"x", "config.json": b"{}"}, "", "leads out"),
        ({"/etc/evil": b"x", "config.json": b"{}"}, "", "leads out"),
        ({"..\\evil": b"x", "config.json": b"{}"}, "", "leads out"),
        ({"config.json": b"{}"}, "model.safetensors", "not a plain file"),
        ({"config.json": b"{}", "x.safetensors": bytes(30_000_000)}, "", "far more"),
        ({"a/config.json": b"{}", "b/config.json": b"{}"}, "", "exactly one"),
        ({"readme.txt": b"x"}, "", "exactly one"),
        ({f"{n}.txt": b"" for n in range(1001)}, "", "at most 1,000"),
        ({"config.json": b"{}", "model.bin": b"x"}, "", "pickled"),
    ],
    ids=["dots", "absolute", "backslash", "link", "bomb", "two models", "none", "many", "pickle"],
)
def test_a_hostile_or_useless_archive_is_refused(files: dict[str, bytes], link: str, says: str) -> None:
    with pytest.raises(ModelInvalid, match=says):
        model_register_upload(file=_zip(files, link=link), file_name="model.zip")
    assert _left_behind() == [] and not ModelVersion.objects.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"no archive", "model.zip"),
        (b"GGUX", "model.gguf"),
        (b"GGUF" + bytes(40), "model.gguf"),
        (b"x", "model.bin"),
    ],
    ids=["zip", "magic", "broken gguf", "ending"],
)
def test_a_file_that_is_no_model_is_refused(content: bytes, name: str) -> None:
    with pytest.raises(ModelInvalid):
        model_register_upload(file=io.BytesIO(content), file_name=name)
    assert _left_behind() == []


def test_an_upload_over_the_limit_is_refused(settings: Any) -> None:
    settings.MODEL_UPLOAD_MAX_BYTES = 10
    with pytest.raises(ModelInvalid, match="larger than 10 bytes"):
        registration_start(action="register", file=io.BytesIO(bytes(11)), file_name="m.gguf")
    assert _left_behind() == [] and not Registration.objects.exists()


def test_paths_must_lie_below_the_tenants_own_import_root(tmp_path: Path) -> None:
    root = import_roots()[0]
    assert root == (tmp_path / "imports" / "alpha").resolve()
    (root / "inside").mkdir()
    other = tmp_path / "imports" / "beta" / "theirs"
    other.mkdir(parents=True)
    (root / "link").symlink_to(other)

    assert import_path("inside") == root / "inside" == import_path(str(root / "inside"))
    for path in (
        "",
        ".",
        "..",
        "../beta/theirs",
        str(other),
        "/etc",
        "link",
        "missing",
        "a\x00b",
        "x" * 5000,
    ):
        with pytest.raises(ModelInvalid) as refused:
            import_path(path)
        assert "path" in refused.value.fields


def test_models_lying_ready_are_offered(small_model: Path) -> None:
    root = import_roots()[0]
    (root / "ready").mkdir()
    (root / "ready" / "config.json").write_text("{}")
    (root / "m.gguf").write_bytes(b"GGUF")
    (root / "notes.txt").write_text("x")
    assert import_candidates() == ["m.gguf", "ready"]


def test_a_request_shows_what_became_of_it(small_model: Path) -> None:
    wanted = registration_start(action="register", file=_zip(_files(small_model)), file_name="tiny.zip")
    assert wanted.status == "queued"

    assert registration_execute(registration_id=str(wanted.pk)) == "succeeded"
    assert registration_execute(registration_id=str(wanted.pk)) == "succeeded"  # delivered twice

    wanted.refresh_from_db()
    assert wanted.model_version is not None and wanted.model_version.name == "tiny" and not wanted.existing
    again = registration_start(action="register", file=_zip(_files(small_model)), file_name="tiny.zip")
    registration_execute(registration_id=str(again.pk))
    again.refresh_from_db()
    assert again.existing and again.model_version == wanted.model_version and "before" in again.message
    assert _left_behind() == []


def test_a_request_for_a_variant_names_its_parent(small_model: Path) -> None:
    parent = model_register(path=small_model, within_import_roots=False).model_version
    arguments = {
        "parent": parent.pk,
        "transform": "add_noise",
        "params": {"sigma": 0.1, "seed": 1},
        "name": "Noisy",
    }
    wanted = registration_start(action="transform", arguments=arguments)
    assert registration_execute(registration_id=str(wanted.pk)) == "succeeded"
    wanted.refresh_from_db()
    assert wanted.model_version is not None and wanted.model_version.parent == parent
    assert wanted.model_version.price_usd_per_compute_s == parent.price_usd_per_compute_s


def test_a_request_that_cannot_be_carried_out_says_why(small_model: Path) -> None:
    parent = model_register(path=small_model, within_import_roots=False).model_version
    wanted = registration_start(
        action="transform",
        arguments={"parent": parent.pk, "transform": "add_noise", "params": {"sigma": "much"}},
    )
    assert registration_execute(registration_id=str(wanted.pk)) == "failed"
    wanted.refresh_from_db()
    assert "sigma" in wanted.message and wanted.finished_at is not None


@pytest.mark.parametrize(
    "arguments",
    [
        {"action": "steal"},
        {"action": "transform", "arguments": {"parent": 0}},
        {"action": "register", "arguments": {"path": "/etc/passwd"}},
        {"action": "packaged", "arguments": {"name": "x" * 121}},
        {"action": "packaged", "arguments": {"price_usd_per_compute_s": -1}},
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_wrong_request_is_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(ModelInvalid):
        registration_start(**arguments)
    assert not Registration.objects.exists()


def test_a_registration_that_is_gone_is_an_error() -> None:
    with pytest.raises(RegistrationNotFound):
        registration_execute(registration_id="00000000-0000-0000-0000-000000000000")


def test_an_auditor_cannot_register(acting: Any, bob: Any, small_model: Path) -> None:
    acting(bob)
    with pytest.raises(Forbidden):
        model_register(path=small_model, within_import_roots=False)
    with pytest.raises(Forbidden):
        registration_start(action="packaged")
