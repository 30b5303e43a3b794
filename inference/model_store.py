"""Content-addressed models on disk: safetensors, configuration and tokenizer under the digest of what they
say.

``<root>/<first two hex>/<64 hex>/`` holds the files and ``manifest.json``. A directory appears there by one
rename and never changes. Nothing here asks the network or runs code from a model: pickles are refused, and
remote code is never trusted. ``root`` is the caller's, so a tenant's models stay in the tenant's directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.data.schema import canonical_json
from inference.engines import runtime

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
CHUNK = 1 << 22
MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors format itself
MAX_CONFIG_BYTES = 16 << 20
MAX_TOKENIZER_BYTES = 256 << 20
MAX_LAYERS = 4096

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack")
CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
# Written by tools, different at each save, and without effect on what the model computes.
VOLATILE_CONFIG = ("_name_or_path", "_model_name_or_path", "transformers_version", "_commit_hash")
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class ModelRefused(ValueError):
    """The files cannot become a model version; the message says what is wrong and how to mend it."""


class ModelCorrupt(Exception):
    """A stored model no longer is what its digest says. It must not be used as evidence."""


class ModelMissing(LookupError):
    """No model with this digest is in the store."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model in the store. ``digest`` is ``sha256:<hex>``; sizes in bytes; ``dtype`` the most common
    one."""

    digest: str
    path: Path
    name: str
    architecture: str
    model_type: str
    parameters: int
    size_bytes: int
    dtype: str
    quantisation: str
    source_format: str
    source: str
    licence: str
    context_length: int
    vocabulary: int
    notes: tuple[str, ...]
    transform: dict[str, Any]
    manifest: dict[str, Any]


# ---- digest
# ---------------------------------------------------------------------------------------------------


def _sha256_file(path: Path, start: int = 0, length: int | None = None) -> str:
    digest = hashlib.sha256()
    remaining = length
    with path.open("rb") as file:
        file.seek(start)
        while remaining is None or remaining > 0:
            block = file.read(CHUNK if remaining is None else min(CHUNK, remaining))
            if not block:
                break
            digest.update(block)
            if remaining is not None:
                remaining -= len(block)
    return digest.hexdigest()


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Tensors of one safetensors file without loading any: name to dtype, shape and byte range, and the data
    offset.

    Raises ModelRefused for anything that is not exactly the format: a bad length, overlapping or missing
    bytes, shapes that do not match their bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little") if len(first) == 8 else 0
        if len(first) < 8 or length < 2 or length > min(MAX_HEADER_BYTES, size - 8):
            raise ModelRefused(
                f"{path.name} is not a safetensors file (its header is missing or longer than the file). "
                "Save the model with save_pretrained(..., safe_serialization=True)."
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ModelRefused(f"{path.name} is not a safetensors file: its header is not JSON.") from error
    if not isinstance(header, dict):
        raise ModelRefused(f"{path.name} is not a safetensors file: its header is not an object.")
    header.pop("__metadata__", None)
    data_start = 8 + length
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        try:
            dtype, shape = entry["dtype"], entry["shape"]
            begin, end = entry["data_offsets"]
            numbers = [*shape, begin, end]
            if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
                raise ValueError
            wanted = math.prod(shape) * DTYPE_BYTES[dtype]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelRefused(
                f"{path.name}: tensor {name!r} has an unreadable or unknown description."
            ) from error
        if end - begin != wanted:
            raise ModelRefused(
                f"{path.name}: tensor {name!r} says {dtype} {shape}, which is {wanted:,} bytes, "
                f"but {end - begin:,} are stored."
            )
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ModelRefused(f"{path.name}: the bytes of its tensors overlap or have gaps. Save it again.")
        at = end
    if data_start + at != size:
        raise ModelRefused(
            f"{path.name} has {size:,} bytes where its header promises {data_start + at:,}. "
            "The file is incomplete or was changed; copy it again."
        )
    return header, data_start


def _tensor_entries(
    files: list[Path],
    hidden_by: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[Any]]:
    """Sorted [name, dtype, shape, sha256 of the bytes] over all files, each tensor once."""
    entries: dict[str, list[Any]] = {}
    for path in files:
        header, start = read_header(path)
        for name, entry in header.items():
            if name in entries:
                raise ModelRefused(f"Tensor {name!r} is in two files ({path.name} is the second).")
            begin, end = entry["data_offsets"]
            digest = _sha256_file(path, start + begin, end - begin)
            entries[name] = [name, entry["dtype"], entry["shape"], digest]
            if progress:
                progress(end - begin)
    for copy, original in (hidden_by or {}).items():
        # Tied weights are one tensor; some tools store it twice. The digest must not depend on that.
        if copy in entries and original in entries and entries[copy][1:] == entries[original][1:]:
            del entries[copy]
    return [entries[name] for name in sorted(entries)]


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelRefused(
            f"{path.name} is larger than {MAX_CONFIG_BYTES:,} bytes, too large for a configuration."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ModelRefused(f"{path.name} must hold a JSON object.")
    return data


def _config_digest(directory: Path) -> str:
    parts = {}
    for name in CONFIG_FILES:
        if (directory / name).exists():
            data = _read_json(directory / name)
            parts[name] = {key: value for key, value in data.items() if key not in VOLATILE_CONFIG}
    try:
        return hashlib.sha256(canonical_json(parts)).hexdigest()
    except ValueError as error:
        raise ModelRefused(
            "config.json holds NaN or infinity, which JSON does not know. Remove it."
        ) from error


def _tokenizer_digest(directory: Path) -> str:
    parts = {name: _sha256_file(directory / name) for name in TOKENIZER_FILES if (directory / name).exists()}
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def _model_digest(tensors: list[list[Any]], config: str, tokenizer: str) -> str:
    whole = {"format": MANIFEST_FORMAT, "tensors": tensors, "config": config, "tokenizer": tokenizer}
    return f"sha256:{hashlib.sha256(canonical_json(whole)).hexdigest()}"


# ---- what a directory must look like
# ----------------------------------------------------------------------------


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelRefused("model.safetensors.index.json has no weight_map.")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ModelRefused(
                    f"model.safetensors.index.json names {name!r}, which is not a file beside it."
                )
            if not (directory / name).exists():
                raise ModelRefused(
                    f"{name} is missing: model.safetensors.index.json names it. Copy every shard."
                )
        return [directory / name for name in names]
    single = directory / "model.safetensors"
    if single.exists():
        return [single]
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        raise ModelRefused(
            f"Found {found[0].name}; rename it model.safetensors, the name transformers loads."
        )
    if found:
        raise ModelRefused(
            "There are several safetensors files but no model.safetensors.index.json to join them."
        )
    raise ModelRefused(
        f"{directory.name} has no model.safetensors. A model version needs config.json, model.safetensors "
        "(or shards with their index) and the tokenizer's files."
    )


def _inspect(directory: Path) -> list[Path]:
    """Refuse what must not enter; return the files to copy."""
    if not directory.exists():
        raise ModelRefused(f"{directory} does not exist.")
    if not directory.is_dir():
        raise ModelRefused(f"{directory} is not a directory. A single GGUF file is registered as such.")
    real = directory.resolve()
    pickles: list[str] = []
    for path in sorted(directory.iterdir()):
        target = path.resolve()
        if path.is_symlink() and not target.is_relative_to(real):
            raise ModelRefused(
                f"{path.name} is a link to a file outside {directory.name}. Copy the directory with its real "
                f"files (cp -rL {directory.name} copy) and register the copy."
            )
        if path.is_symlink() and not target.exists():
            raise ModelRefused(f"{path.name} is a link to a file that does not exist.")
        if path.suffix.lower() in PICKLES:
            pickles.append(path.name)
    if pickles:
        raise ModelRefused(
            f"{', '.join(pickles[:5])} may hold pickled objects, which run code when opened. Signoff takes "
            "safetensors only: convert with save_pretrained(..., safe_serialization=True), then remove these."
        )
    if not (directory / "config.json").is_file():
        raise ModelRefused(
            f"{directory.name} has no config.json. It is written by save_pretrained beside the weights."
        )
    files = _weight_files(directory)
    if (directory / "model.safetensors.index.json").exists():
        files.append(directory / "model.safetensors.index.json")
    files += [directory / n for n in (*CONFIG_FILES, *TOKENIZER_FILES) if (directory / n).exists()]
    if not any((directory / name).exists() for name in VOCABULARY_FILES):
        raise ModelRefused(
            f"{directory.name} has no tokenizer ({', '.join(VOCABULARY_FILES)}). "
            "Save it beside the model with tokenizer.save_pretrained(...)."
        )
    for path in files:
        if not path.is_file():
            raise ModelRefused(f"{path.name} is not an ordinary file.")
        if path.name in TOKENIZER_FILES and path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ModelRefused(f"{path.name} is larger than {MAX_TOKENIZER_BYTES:,} bytes.")
    return files


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _check_config(config: Mapping[str, Any], stored_parameters: int) -> None:
    """Refuse configurations that would need other software, or that promise far more than the files hold."""
    if config.get("quantization_config"):
        method = config["quantization_config"]
        name = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
        raise ModelRefused(
            f"The weights are stored in the packed form of {name!r}, which needs its own software. "
            "Register the dequantised safetensors, or the GGUF file."
        )
    text = _text_config(config)
    layers = text.get("num_hidden_layers", text.get("n_layer", 0))
    if isinstance(layers, int) and layers > MAX_LAYERS:
        raise ModelRefused(f"config.json promises {layers:,} layers; at most {MAX_LAYERS:,} are accepted.")
    for name in ("vocab_size", "hidden_size", "intermediate_size"):
        value = text.get(name)
        if isinstance(value, int) and value > max(stored_parameters, 1):
            raise ModelRefused(
                f"config.json says {name} is {value:,}, more than all stored parameters together."
            )


def _check_loads(directory: Path) -> list[str]:
    """Really build the model and tokenizer from these files; returns notes. Raises ModelRefused when it
    cannot be."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    runtime.quiet_transformers()
    offline: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    notes: list[str] = []
    stored = sum(
        math.prod(entry["shape"])
        for path in _weight_files(directory)
        for entry in read_header(path)[0].values()
    )
    try:
        config = AutoConfig.from_pretrained(str(directory), **offline)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        wanted = sum(parameter.numel() for parameter in skeleton.parameters())
    except Exception as error:
        raise ModelRefused(
            f"config.json does not describe a causal language model that the installed transformers knows: "
            f"{_short(error)}"
        ) from error
    if wanted > stored * 1.1 + 1024:
        raise ModelRefused(
            f"config.json describes {wanted:,} parameters, but the files hold {stored:,}. Some weights are "
            "missing, or the configuration belongs to another model."
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(directory), dtype="auto", use_safetensors=True, output_loading_info=True, **offline
        )
        model, info = loaded
    except Exception as error:
        raise ModelRefused(f"The weights do not fit config.json: {_short(error)}") from error
    missing = sorted(str(key) for key in info.get("missing_keys", ()))
    mismatched = sorted(str(key) for key in info.get("mismatched_keys", ()))
    unexpected = sorted(str(key) for key in info.get("unexpected_keys", ()))
    if missing:
        raise ModelRefused(f"{len(missing)} weights are missing, for example {', '.join(missing[:3])}.")
    if mismatched:
        raise ModelRefused(
            f"{len(mismatched)} weights have another shape than config.json says: {mismatched[0]}."
        )
    if unexpected:
        notes.append(
            f"{len(unexpected)} stored tensors are not used by the model, for example {unexpected[0]}."
        )
    broken = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        notes.append(f"{len(broken)} weights hold NaN or infinity, for example {broken[0]}.")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), **offline)
        ids = tokenizer("Hello, world.", add_special_tokens=False)["input_ids"]
    except Exception as error:
        raise ModelRefused(f"The tokenizer cannot be loaded: {_short(error)}") from error
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if not ids:
        raise ModelRefused("The tokenizer turns ordinary text into no tokens at all.")
    if max(ids) >= vocabulary:
        raise ModelRefused(
            f"The tokenizer gives token {max(ids):,}, but the model knows only {vocabulary:,}: "
            "tokenizer and model do not belong together."
        )
    if len(tokenizer) > vocabulary:
        notes.append(f"The tokenizer has {len(tokenizer):,} tokens, the model {vocabulary:,}.")
    return notes


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


# ---- the store
# ----------------------------------------------------------------------------------------------------


class ModelStore:
    """Models under one directory. Safe for several processes: a model appears whole or not at all."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path_of(self, digest: str) -> Path:
        """Where a model of this digest is or would be. Raises ValueError when the digest is not one."""
        kind, _, value = digest.partition(":")
        if kind != "sha256" or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise ValueError(f"A model digest looks like sha256:<64 hex digits>, got {digest[:80]!r}.")
        return self.root / value[:2] / value

    def has(self, digest: str) -> bool:
        return (self.path_of(digest) / MANIFEST).is_file()

    def get(self, digest: str, *, full: bool = False) -> StoredModel:
        """The stored model after a check. Raises ModelMissing or ModelCorrupt.

        The cheap check (milliseconds) recomputes the digest from the manifest, hashes configuration and
        tokenizer and compares names, dtypes, shapes and sizes of every tensor. ``full`` also hashes the bytes
        of the weights.
        """
        path = self.path_of(digest)
        if not (path / MANIFEST).is_file():
            raise ModelMissing(f"No model with digest {digest[:19]}... is in the store. Register it again.")
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            tensors = manifest["tensors"]
            if _model_digest(tensors, _config_digest(path), _tokenizer_digest(path)) != digest:
                raise ModelCorrupt(
                    f"Configuration, tokenizer or manifest of {digest[:19]}... changed on disk."
                )
            files = _weight_files(path)
            if full:
                if _tensor_entries(files, _tied(_read_json(path / "config.json"))) != tensors:
                    raise ModelCorrupt(f"The weights of {digest[:19]}... changed on disk.")
            else:
                described = {
                    name: [entry["dtype"], entry["shape"]]
                    for file in files
                    for name, entry in read_header(file)[0].items()
                }
                for name, dtype, shape, _ in tensors:
                    if described.get(name) != [dtype, shape]:
                        raise ModelCorrupt(f"Tensor {name} of {digest[:19]}... changed on disk.")
        except (ModelRefused, OSError, ValueError, KeyError, TypeError) as error:
            raise ModelCorrupt(
                f"The stored model {digest[:19]}... cannot be read: {_short(error)}"
            ) from error
        return _stored(path, manifest)

    def verify(self, digest: str) -> StoredModel:
        """Full check: every byte of the weights is hashed (about a second per gigabyte). Raises
        ModelCorrupt."""
        return self.get(digest, full=True)

    def digests(self) -> list[str]:
        """Every model in the store."""
        return sorted(f"sha256:{path.parent.name}" for path in self.root.glob(f"??/*/{MANIFEST}"))

    def delete(self, digest: str) -> bool:
        """Remove a model; False when it was not there. The caller knows whether evidence still needs it."""
        path = self.path_of(digest)
        if not path.exists():
            return False
        gone = self.root / "tmp" / f"deleted-{uuid.uuid4().hex}"
        gone.parent.mkdir(parents=True, exist_ok=True)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def import_directory(
        self,
        path: Path | str,
        *,
        name: str = "",
        licence: str = "",
        quantisation: str = "",
        source: str = "",
        source_format: str = "safetensors",
        transform: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
        move: bool = False,
    ) -> StoredModel:
        """Copy a directory of safetensors, config and tokenizer into the store and return it.

        The same weights give the same digest however they are sharded, and importing them again returns the
        model that is there. ``progress`` receives bytes hashed. ``move`` (our own temporary directories)
        links the files in place of copying them. Raises ModelRefused, leaving nothing behind.
        """
        directory = Path(path)
        files = _inspect(directory)
        with self._workspace() as tmp:
            for file in files:
                _take(file, tmp / file.name, move=move)
            _complete_index(tmp)
            # Everything from here looks at our copy, so a file changed meanwhile cannot slip through.
            weights = _weight_files(tmp)
            config = _read_json(tmp / "config.json")
            headers = [entry for file in weights for entry in read_header(file)[0].values()]
            parameters = sum(math.prod(entry["shape"]) for entry in headers)
            _check_config(config, parameters)
            notes = _check_loads(tmp)
            tensors = _tensor_entries(weights, _tied(config), progress)
            config_digest, tokenizer_digest = _config_digest(tmp), _tokenizer_digest(tmp)
            digest = _model_digest(tensors, config_digest, tokenizer_digest)
            dtypes: Counter[str] = Counter()
            for _, dtype, shape, _ in tensors:
                dtypes[dtype] += math.prod(shape)
            common = dtypes.most_common(1)[0][0]
            text = _text_config(config)
            architectures = config.get("architectures")
            manifest = {
                "format": MANIFEST_FORMAT,
                "digest": digest,
                "name": name or directory.name,
                "architecture": str(architectures[0])
                if isinstance(architectures, list) and architectures
                else "",
                "model_type": str(config.get("model_type", "")),
                "parameters": sum(dtypes.values()),
                "size_bytes": sum(file.stat().st_size for file in tmp.iterdir()),
                "dtype": common,
                "quantisation": quantisation or f"none ({common})",
                "source_format": source_format,
                "source": source or directory.name,
                "licence": licence or "not stated",
                "context_length": _whole(text.get("max_position_embeddings", text.get("n_positions"))),
                "vocabulary": _whole(text.get("vocab_size")),
                "notes": notes,
                "transform": dict(transform or {}),
                "config_digest": config_digest,
                "tokenizer_digest": tokenizer_digest,
                "tensors": tensors,
            }
            (tmp / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
            final = self.path_of(digest)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                tmp.rename(final)
            except OSError:  # the same model is already there, perhaps since a moment ago
                if not (final / MANIFEST).is_file():
                    raise
        return self.get(digest)

    def import_gguf(
        self, path: Path | str, *, name: str = "", licence: str = "", source: str = ""
    ) -> StoredModel:
        """Dequantise a GGUF file to fp32 safetensors and import that. Raises ModelRefused, leaving nothing
        behind.

        The numbers are those of the quantised model: converting to safetensors restores no lost precision,
        and
        ``quantisation`` says so ("dequantised from Q4_1").
        """
        file = Path(path)
        if not file.is_file():
            raise ModelRefused(f"{file} is not a file. Give the path of one GGUF file.")
        with file.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise ModelRefused(f"{file.name} is not a GGUF file (its first four bytes are not GGUF).")
        with self._workspace() as tmp:
            described = _convert_gguf(file.resolve(), tmp)
            return self.import_directory(
                tmp / "model",
                name=name or file.stem,
                licence=licence or described["licence"],
                quantisation=described["quantisation"],
                source=source or file.name,
                source_format="gguf",
                move=True,
            )

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty directory inside the store for making a model; removed at the end. ``<dir>/model`` is
        free."""
        with self._workspace() as tmp:
            yield tmp

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[Path]:
        tmp = self.root / "tmp" / uuid.uuid4().hex
        tmp.mkdir(parents=True)
        try:
            yield tmp
        finally:
            shutil.rmtree(tmp, ignore_errors=True)


def _take(source: Path, target: Path, *, move: bool) -> None:
    if move:
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


def _complete_index(directory: Path) -> None:
    """transformers insists on a metadata entry in the shard index, which the format leaves free."""
    index = directory / "model.safetensors.index.json"
    if index.exists() and "metadata" not in (data := _read_json(index)):
        index.write_text(json.dumps({"metadata": {}, **data}), encoding="utf-8")


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else 0


def _tied(config: Mapping[str, Any]) -> dict[str, str]:
    """Names of tensors that are copies of another by the model's own tying: copy to original."""
    text = _text_config(config)
    if config.get("tie_word_embeddings", text.get("tie_word_embeddings")) is not True:
        return {}
    return {"lm_head.weight": "model.embed_tokens.weight"}


def _stored(path: Path, manifest: Mapping[str, Any]) -> StoredModel:
    return StoredModel(
        digest=manifest["digest"],
        path=path,
        name=manifest["name"],
        architecture=manifest["architecture"],
        model_type=manifest["model_type"],
        parameters=manifest["parameters"],
        size_bytes=manifest["size_bytes"],
        dtype=manifest["dtype"],
        quantisation=manifest["quantisation"],
        source_format=manifest["source_format"],
        source=manifest["source"],
        licence=manifest["licence"],
        context_length=manifest["context_length"],
        vocabulary=manifest["vocabulary"],
        notes=tuple(manifest["notes"]),
        transform=manifest["transform"],
        manifest=dict(manifest),
    )


# ---- GGUF
# ---------------------------------------------------------------------------------------------------------

_gguf_lock = threading.Lock()


@contextlib.contextmanager
def _read_gguf_once(path: Path) -> Iterator[Any]:
    """Let transformers parse the GGUF header once in place of three times (it saves two thirds of the time).

    transformers imports ``GGUFReader`` from the gguf package inside its functions, so replacing the name
    there for the length of one conversion is enough. The lock keeps two conversions of one process apart.
    """
    import gguf
    import numpy as np
    from gguf.gguf_reader import GGUFReader

    class PlainReader(GGUFReader):
        """Slices a plain array: slicing numpy.memmap builds a memmap object for each of half a million
        fields."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            if isinstance(self.data, np.memmap):
                self.data = self.data.view(np.ndarray)  # type: ignore[assignment]
            return super()._get(offset, dtype, count, override_order)

    original_reader, original_map = gguf.GGUFReader, gguf.get_tensor_name_map
    maps: dict[Any, Any] = {}

    def name_map(arch: Any, blocks: int) -> Any:
        if (arch, blocks) not in maps:
            maps[arch, blocks] = original_map(arch, blocks)
        return maps[arch, blocks]

    with _gguf_lock:
        reader = PlainReader(path)
        gguf.GGUFReader = lambda *args, **kwargs: reader  # type: ignore[misc,assignment]
        gguf.get_tensor_name_map = name_map  # type: ignore[assignment]
        try:
            yield reader
        finally:
            gguf.GGUFReader = original_reader  # type: ignore[misc]
            gguf.get_tensor_name_map = original_map


def _convert_gguf(file: Path, tmp: Path) -> dict[str, str]:
    """Write ``tmp/model`` from a GGUF file; returns licence and quantisation as the file states them."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    runtime.quiet_transformers()
    # Alone in a directory of ours, so that files lying beside the user's GGUF cannot take part.
    alone = tmp / "gguf"
    alone.mkdir()
    (alone / "model.gguf").symlink_to(file)
    offline: dict[str, Any] = {
        "gguf_file": "model.gguf",
        "local_files_only": True,
        "trust_remote_code": False,
    }
    target = tmp / "model"
    target.mkdir()
    try:
        with _read_gguf_once(alone / "model.gguf") as reader:
            amounts: Counter[str] = Counter()
            for tensor in reader.tensors:
                if len(tensor.shape) > 1:
                    amounts[tensor.tensor_type.name] += int(tensor.n_elements)
            licence = ""
            if "general.license" in reader.fields:
                licence = str(reader.fields["general.license"].contents())[:80]
            tokenizer: Any = AutoTokenizer.from_pretrained(str(alone), **offline)
            model: Any = AutoModelForCausalLM.from_pretrained(str(alone), dtype=torch.float32, **offline)
        tokenizer.save_pretrained(str(target))
        config = model.config
        for name in ("quantization_config", "_name_or_path"):
            if hasattr(config, name):
                with contextlib.suppress(AttributeError):
                    delattr(config, name)
        config.architectures = [type(model).__name__]
        data = config.to_dict()
        for name in (*VOLATILE_CONFIG, "quantization_config"):
            data.pop(name, None)
        (target / "config.json").write_text(json.dumps(data, indent=2, sort_keys=True), encoding="utf-8")
        generation = model.generation_config.to_dict()
        generation.pop("transformers_version", None)
        kept = {name: value for name, value in generation.items() if value is not None}
        (target / "generation_config.json").write_text(
            json.dumps(kept, indent=2, sort_keys=True), encoding="utf-8"
        )
        state = model.state_dict()
        for copy, source in _tied(data).items():
            if copy in state and source in state:
                del state[copy]
        save_file(
            {name: value.contiguous() for name, value in state.items()},
            str(target / "model.safetensors"),
            metadata={"format": "pt"},
        )
    except ModelRefused:
        raise
    except Exception as error:
        raise ModelRefused(
            f"{file.name} cannot be read as a language model in GGUF: {_short(error)}"
        ) from error
    common = amounts.most_common(1)[0][0] if amounts else "unknown"
    stated = f"dequantised from {common} (GGUF), stored as F32"
    return {"licence": f"{licence} (stated in the file)" if licence else "", "quantisation": stated}
