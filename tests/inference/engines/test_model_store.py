"""Models enter the store whole, safe and under the digest of their content, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from inference.model_store import ModelCorrupt, ModelMissing, ModelRefused, ModelStore, StoredModel
from tests.inference.conftest import edit_json


def _shards(directory: Path) -> None:
    """Rewrite model.safetensors as two shards with an index."""
    from safetensors.torch import load_file, save_file

    state = load_file(str(directory / "model.safetensors"))
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file(
            {name: state[name].clone() for name in part}, str(directory / file), metadata={"format": "pt"}
        )
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


def test_same_weights_have_one_digest_however_sharded(
    tiny_copy: Path, store: ModelStore, tmp_path: Path
) -> None:
    whole = store.import_directory(tiny_copy)
    _shards(tiny_copy)
    other = ModelStore(tmp_path / "other").import_directory(tiny_copy)
    assert other.digest == whole.digest
    assert len(list(other.path.glob("*.safetensors"))) == 2


def test_a_stored_copy_of_a_tied_head_does_not_change_the_digest(tiny_copy: Path, store: ModelStore) -> None:
    from safetensors.torch import load_file, save_file

    before = store.import_directory(tiny_copy).digest
    state = load_file(str(tiny_copy / "model.safetensors"))
    assert "lm_head.weight" not in state
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, str(tiny_copy / "model.safetensors"), metadata={"format": "pt"})
    assert store.import_directory(tiny_copy).digest == before


def test_one_changed_bit_changes_the_digest(tiny_copy: Path, store: ModelStore) -> None:
    before = store.import_directory(tiny_copy).digest
    file = tiny_copy / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert store.import_directory(tiny_copy).digest != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_configuration_and_tokenizer_are_part_of_the_digest(
    name: str, tiny_copy: Path, store: ModelStore
) -> None:
    before = store.import_directory(tiny_copy).digest
    edit_json(tiny_copy / name, **({"rope_theta": 5.0} if name == "config.json" else {"truncation": None}))
    changed = store.import_directory(tiny_copy)
    assert changed.digest != before


def test_the_version_of_the_saving_tool_is_not_part_of_the_digest(tiny_copy: Path, store: ModelStore) -> None:
    before = store.import_directory(tiny_copy).digest
    edit_json(tiny_copy / "config.json", transformers_version="9.9.9", _name_or_path="elsewhere")
    assert store.import_directory(tiny_copy).digest == before


def test_an_imported_model_says_what_it_is(tiny_stored: StoredModel) -> None:
    assert tiny_stored.architecture == "LlamaForCausalLM"
    assert tiny_stored.parameters == 1_591_456
    assert tiny_stored.context_length == 64
    assert tiny_stored.quantisation == "none (F32)"
    assert tiny_stored.size_bytes > tiny_stored.parameters * 4


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "extra.PKL"])
def test_pickles_are_refused(name: str, tiny_copy: Path, store: ModelStore) -> None:
    (tiny_copy / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelRefused, match="safetensors only"):
        store.import_directory(tiny_copy)
    assert store.digests() == []


def test_a_link_out_of_the_directory_is_refused(tiny_copy: Path, store: ModelStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (tiny_copy / "generation_config.json").unlink()
    (tiny_copy / "generation_config.json").symlink_to(secret)
    with pytest.raises(ModelRefused, match="outside"):
        store.import_directory(tiny_copy)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no model.safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_missing_file_is_named(missing: str, message: str, tiny_copy: Path, store: ModelStore) -> None:
    (tiny_copy / missing).unlink()
    with pytest.raises(ModelRefused, match=message):
        store.import_directory(tiny_copy)


def test_a_missing_shard_is_named(tiny_copy: Path, store: ModelStore) -> None:
    _shards(tiny_copy)
    (tiny_copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelRefused, match=r"model-00002-of-00002\.safetensors is missing"):
        store.import_directory(tiny_copy)


def test_an_index_may_not_point_outside(tiny_copy: Path, store: ModelStore) -> None:
    _shards(tiny_copy)
    index = tiny_copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(ModelRefused, match="not a file beside it"):
        store.import_directory(tiny_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"num_hidden_layers": 60}, "weights are missing|parameters"),
        ({"model_type": "no_such_model"}, "does not describe a causal language model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"intermediate_size": 65}, "do not fit|another shape|parameters"),
    ],
    ids=["endless layers", "huge width", "more layers than weights", "unknown type", "packed", "wrong shape"],
)
def test_a_configuration_that_does_not_fit_is_refused(
    change: dict[str, object], message: str, tiny_copy: Path, store: ModelStore
) -> None:
    edit_json(tiny_copy / "config.json", **change)
    with pytest.raises(ModelRefused, match=message):
        store.import_directory(tiny_copy)
    assert store.digests() == []
    assert not any((store.root / "tmp").iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 7,
        b"\xff" * 64,
        (10).to_bytes(8, "little") + b"not json!!",
        (2).to_bytes(8, "little") + b"[]",
    ],
    ids=["empty", "short", "giant header", "no json", "list"],
)
def test_a_file_that_is_not_safetensors_is_refused(
    content: bytes, tiny_copy: Path, store: ModelStore
) -> None:
    (tiny_copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelRefused, match="not a safetensors file"):
        store.import_directory(tiny_copy)


def test_a_truncated_file_is_refused(tiny_copy: Path, store: ModelStore) -> None:
    file = tiny_copy / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)
    with pytest.raises(ModelRefused, match="incomplete"):
        store.import_directory(tiny_copy)


def test_importing_twice_keeps_one_model(tiny_copy: Path, store: ModelStore) -> None:
    first = store.import_directory(tiny_copy, name="first")
    second = store.import_directory(tiny_copy, name="second")
    assert second.digest == first.digest
    assert second.name == "first"
    assert store.digests() == [first.digest]


def test_a_changed_weight_is_found_by_the_full_check(tiny_copy: Path, store: ModelStore) -> None:
    model = store.import_directory(tiny_copy)
    file = model.path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert store.get(model.digest).digest == model.digest  # the cheap check does not read weights
    with pytest.raises(ModelCorrupt, match="weights"):
        store.verify(model.digest)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "manifest.json", "model.safetensors"])
def test_a_changed_or_shortened_file_is_found_by_the_cheap_check(
    name: str, tiny_copy: Path, store: ModelStore
) -> None:
    model = store.import_directory(tiny_copy)
    file = model.path / name
    if name.endswith(".safetensors"):
        os.truncate(file, file.stat().st_size - 4)
    elif name == "manifest.json":
        manifest = json.loads(file.read_text())
        manifest["tensors"][0][3] = "0" * 64
        file.write_text(json.dumps(manifest))
    else:
        edit_json(file, added="value")
    with pytest.raises(ModelCorrupt):
        store.get(model.digest)


def test_an_unknown_digest_is_missing_and_nonsense_is_an_error(store: ModelStore) -> None:
    with pytest.raises(ModelMissing):
        store.get("sha256:" + "0" * 64)
    with pytest.raises(ValueError, match="looks like"):
        store.get("sha256:../../../etc/passwd")


def test_deleting_leaves_nothing(tiny_copy: Path, store: ModelStore) -> None:
    model = store.import_directory(tiny_copy)
    assert store.delete(model.digest)
    assert not store.delete(model.digest)
    assert store.digests() == []


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 200, b"PK\x03\x04zip"])
def test_a_file_that_is_not_gguf_is_refused(content: bytes, store: ModelStore, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelRefused, match="GGUF"):
        store.import_gguf(file)
    assert store.digests() == []


def test_the_gguf_model_says_that_it_was_dequantised(smollm: StoredModel) -> None:
    assert smollm.quantisation == "dequantised from Q4_1 (GGUF), stored as F32"
    assert smollm.licence.startswith("apache-2.0")
    assert smollm.parameters == 134_515_008
    assert smollm.architecture == "LlamaForCausalLM"
    assert smollm.source_format == "gguf"


def test_not_a_number_in_weights_is_noted_and_not_refused(tiny_copy: Path, store: ModelStore) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(str(tiny_copy / "model.safetensors"))
    state["model.norm.weight"][0] = float("nan")
    save_file(state, str(tiny_copy / "model.safetensors"), metadata={"format": "pt"})
    assert any("NaN" in note for note in store.import_directory(tiny_copy).notes)


def test_remote_code_is_never_run(tiny_copy: Path, store: ModelStore, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tiny_copy / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    edit_json(
        tiny_copy / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"},
    )
    with pytest.raises(ModelRefused):
        store.import_directory(tiny_copy)
    assert not marker.exists()
    shutil.rmtree(tiny_copy)
