"""Open the engine of a stored model: on this machine, or at ENGINE_URL when that is set."""

from __future__ import annotations

from collections.abc import Hashable

from inference.engines.base import Engine, EngineIdentity, EngineOptions
from inference.engines.cache import EngineCache
from inference.model_store import ModelStore

# Models loaded at once in one process: a comparison needs candidate and baseline.
LOADED_MODELS = 2
_cache = EngineCache(LOADED_MODELS)


def open_engine(
    store: ModelStore,
    digest: str,
    *,
    options: EngineOptions | None = None,
    engine_url: str = "",
    engine_model: str = "",
    api_key: str = "",
    loglikelihood: bool = True,
) -> Engine:
    """The engine for a model version, loaded at most once per process and kept among the last two used.

    Args:
        store: the tenant's models; its root is part of the cache key, so tenants never share an entry.
        engine_url: when not empty, an OpenAI-compatible server that serves ``engine_model`` (default: the
        digest).
    Raises:
        ModelMissing, ModelCorrupt: from the store's check, made on every call.
        EngineUnavailable: the model cannot be loaded.
    """
    if engine_url:
        from inference.engines.openai_engine import OpenAIEngine

        return OpenAIEngine(
            engine_url,
            model=engine_model or digest,
            identity=EngineIdentity(digest=digest, name=engine_model or digest[:19]),
            api_key=api_key,
            loglikelihood=loglikelihood,
        )
    chosen = options or EngineOptions()
    model = store.get(digest)

    def load() -> Engine:
        from inference.engines.torch_engine import TorchEngine

        identity = EngineIdentity(digest=digest, name=model.name, parameters=model.parameters)
        return TorchEngine(model.path, identity, chosen)

    key: Hashable = (str(store.root.resolve()), digest, tuple(sorted(chosen.as_dict().items())))
    return _cache.get(key, load)


def forget_engines() -> None:
    """Drop every loaded model of this process (tests, memory pressure)."""
    _cache.clear()
