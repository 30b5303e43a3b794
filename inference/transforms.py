"""Documented transforms that make a new, real model version from an existing one.

Each is deterministic, parameterised and (where it draws numbers) seeded, and returns metadata that is
recorded with the new version. They act on the stored tensors and configuration only; the tokenizer stays.
Measured effects of the ones used in the demonstration are in docs/models.md.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.model_store import ModelStore, StoredModel

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]
SHARD_BYTES = 4 << 30


class TransformInvalid(ValueError):
    """A transform or one of its parameters is wrong; the message names the accepted values."""


@dataclass(frozen=True, slots=True)
class Transformed:
    """What a transform did: new configuration values and facts worth keeping (what changed, how much)."""

    config: dict[str, Any]
    facts: dict[str, Any]


# ---- the transforms, each on a state dict in place ---------------------------------------------------------


def quantize_rtn(state: State, config: Mapping[str, Any], *, bits: int, group_size: int) -> Transformed:
    """Round every linear weight to ``bits`` per value in groups of ``group_size`` input columns, and store
    the result dequantised (the file is as large as before; the numbers are the quantised ones).

    Asymmetric: each group has a scale (max - min) / (2^bits - 1) and an offset min, as in common 4-bit
    formats. The last group of a row may be shorter. Embeddings (and a head tied to them), norms and biases
    are kept.
    """
    import torch

    _whole("bits", bits, 2, 8)
    _whole("group_size", group_size, 8, 4096)
    squared_error = squared = 0.0
    count = 0
    for name in _linear_names(state):
        weight = state[name]
        rows, columns = weight.shape
        work = weight.float()
        padding = -columns % group_size
        if padding:  # repeat the last column, which changes no group's range
            work = torch.cat([work, work[:, -1:].expand(rows, padding)], dim=1)
        groups = work.reshape(rows, -1, group_size)
        low = groups.amin(-1, keepdim=True)
        scale = (groups.amax(-1, keepdim=True) - low) / (2**bits - 1)
        steps = torch.where(scale > 0, (groups - low) / scale.clamp(min=1e-30), torch.zeros_like(groups))
        rounded = (steps.round() * scale + low).reshape(rows, -1)[:, :columns]
        squared_error += float((rounded - weight.float()).double().square().sum())
        squared += float(weight.double().square().sum())
        state[name] = rounded.to(weight.dtype).contiguous()
        count += 1
    error = (squared_error / squared) ** 0.5 if squared else 0.0
    return Transformed({}, {"tensors": count, "relative_error": round(error, 6)})


def zero_heads(state: State, config: Mapping[str, Any], *, fraction: float, seed: int) -> Transformed:
    """Silence a share of all attention heads, drawn by seed: their columns of the output projection become
    0."""
    import torch

    _share("fraction", fraction)
    _whole("seed", seed, 0, 2**63 - 1)
    heads = int(config.get("num_attention_heads", 0))
    names = sorted(
        (name for name in state if name.endswith(("self_attn.o_proj.weight", "attn.o_proj.weight"))),
        key=_natural,
    )
    if heads < 1 or not names:
        raise TransformInvalid(
            f"zero_heads knows attention layers with an o_proj and num_attention_heads; this model "
            f"({config.get('model_type', 'unknown')}) has another layout."
        )
    total = heads * len(names)
    amount = round(fraction * total)
    generator = torch.Generator().manual_seed(seed)
    chosen = sorted(torch.randperm(total, generator=generator)[:amount].tolist())
    for index in chosen:
        name, head = names[index // heads], index % heads
        weight = state[name].clone()
        size = weight.shape[1] // heads
        weight[:, head * size : (head + 1) * size] = 0
        state[name] = weight
    shown = [[index // heads, index % heads] for index in chosen]
    return Transformed({}, {"heads": total, "zeroed": amount, "layer_and_head": shown})


def add_noise(state: State, config: Mapping[str, Any], *, sigma: float, seed: int) -> Transformed:
    """Add Gaussian noise to every linear weight; its deviation is ``sigma`` times the weight's own
    deviation."""
    import torch

    _number("sigma", sigma, 0.0, 10.0)
    _whole("seed", seed, 0, 2**63 - 1)
    generator = torch.Generator().manual_seed(seed)
    names = sorted(_linear_names(state), key=_natural)
    for name in names:
        weight = state[name]
        noise = torch.randn(weight.shape, generator=generator)
        state[name] = (weight.float() + noise * (sigma * weight.float().std())).to(weight.dtype)
    return Transformed({}, {"tensors": len(names)})


def prune_magnitude(state: State, config: Mapping[str, Any], *, fraction: float) -> Transformed:
    """Set the smallest weights of each linear matrix to 0, a ``fraction`` of its entries, by absolute
    value."""
    import torch

    _share("fraction", fraction)
    zeroed = total = 0
    names = sorted(_linear_names(state), key=_natural)
    for name in names:
        weight = state[name].clone()
        amount = int(fraction * weight.numel())
        total += weight.numel()
        if amount:
            smallest = torch.topk(weight.float().abs().flatten(), amount, largest=False).indices
            weight.view(-1)[smallest] = 0
            zeroed += amount
        state[name] = weight
    return Transformed({}, {"tensors": len(names), "zeroed": zeroed, "weights": total})


_LAYER = re.compile(r"^(.*\.layers\.)(\d+)(\..*)$")


def drop_layer(state: State, config: Mapping[str, Any], *, layer: int) -> Transformed:
    """Remove one transformer layer (from 0) and close the gap; the model really is one layer shallower."""
    layers = int(config.get("num_hidden_layers", 0))
    if layers < 2 or not any(_LAYER.match(name) for name in state):
        raise TransformInvalid(
            "drop_layer needs a model with at least two layers named ...layers.<number>; this one "
            f"({config.get('model_type', 'unknown')}) has {layers}."
        )
    _whole("layer", layer, 0, layers - 1)
    renamed: State = {}
    for name, value in state.items():
        found = _LAYER.match(name)
        if not found:
            renamed[name] = value
            continue
        number = int(found.group(2))
        if number != layer:
            renamed[f"{found.group(1)}{number - (number > layer)}{found.group(3)}"] = value
    state.clear()
    state.update(renamed)
    changed: dict[str, Any] = {"num_hidden_layers": layers - 1}
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        changed["layer_types"] = kinds[:layer] + kinds[layer + 1 :]
    return Transformed(changed, {"layers_before": layers, "dropped": layer})


Transform = Callable[..., Transformed]
TRANSFORMS: dict[str, Transform] = {
    "quantize_rtn": quantize_rtn,
    "zero_heads": zero_heads,
    "add_noise": add_noise,
    "prune_magnitude": prune_magnitude,
    "drop_layer": drop_layer,
}
PARAMETERS: dict[str, tuple[str, ...]] = {
    "quantize_rtn": ("bits", "group_size"),
    "zero_heads": ("fraction", "seed"),
    "add_noise": ("sigma", "seed"),
    "prune_magnitude": ("fraction",),
    "drop_layer": ("layer",),
}


def apply_transform(
    store: ModelStore, parent: StoredModel | str, transform: str, params: Mapping[str, Any], *, name: str = ""
) -> StoredModel:
    """Make and store the transformed model; the parent is checked and stays as it is.

    The result's ``transform`` is ``{"name", "params", "parent", "facts"}``. The same parent, transform and
    parameters give the same digest. Raises TransformInvalid, ModelMissing, ModelCorrupt or ModelRefused.
    """
    from safetensors.torch import load_file, save_file

    if transform not in TRANSFORMS:
        raise TransformInvalid(f"{transform!r} is not a transform. Choose one of {', '.join(TRANSFORMS)}.")
    wanted = PARAMETERS[transform]
    if set(params) != set(wanted):
        raise TransformInvalid(
            f"{transform} takes {', '.join(wanted)}; got {', '.join(params) or 'nothing'}."
        )
    source = store.get(parent if isinstance(parent, str) else parent.digest)
    config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    state: State = {}
    for file in sorted(source.path.glob("*.safetensors")):
        state.update(load_file(str(file)))
    done = TRANSFORMS[transform](state, config, **params)
    config.update(done.config)
    record = {"name": transform, "params": dict(params), "parent": source.digest, "facts": done.facts}
    shown = ", ".join(f"{key} {value}" for key, value in params.items())
    with store.workspace() as tmp:
        made = tmp / "model"
        made.mkdir()
        for file in source.path.iterdir():
            if file.suffix == ".safetensors" or file.name in (
                "manifest.json",
                "model.safetensors.index.json",
            ):
                continue
            shutil.copyfile(file, made / file.name)
        (made / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        _save_shards(state, made, save_file)
        result = store.import_directory(
            made,
            name=name or f"{source.name} {transform} ({shown})",
            licence=source.licence,
            quantisation=f"{transform} ({shown}) of: {source.quantisation}"
            if transform != "quantize_rtn"
            else f"{params['bits']}-bit round to nearest, group {params['group_size']}, stored dequantised; "
            f"from: {source.quantisation}",
            source=f"{transform} of {source.digest[:19]}",
            source_format="transform",
            transform=record,
            move=True,
        )
    if result.digest == source.digest:
        # For example 4 bits in groups of 32 on a model that already has such groups.
        raise TransformInvalid(
            f"{transform} ({shown}) changes nothing in {source.name}: the result is the same model."
        )
    return result


def _save_shards(state: State, directory: Any, save_file: Callable[..., None]) -> None:
    """One file, or several with an index when the weights exceed SHARD_BYTES."""
    shards: list[State] = [{}]
    size = 0
    for name in sorted(state):
        bytes_here = state[name].numel() * state[name].element_size()
        if shards[-1] and size + bytes_here > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = state[name].contiguous()
        size += bytes_here
    if len(shards) == 1:
        save_file(shards[0], str(directory / "model.safetensors"), metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, str(directory / file), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


_NOT_LINEAR = ("embed", "wte", "wpe", "norm", "ln_", "lm_head", "rotary")


def _linear_names(state: State) -> Iterator[str]:
    """Names of two-dimensional weights inside the layers, in stored order."""
    return iter(
        [
            name
            for name, value in state.items()
            if value.dim() == 2 and name.endswith(".weight") and not any(part in name for part in _NOT_LINEAR)
        ]
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which layer 10 follows layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise TransformInvalid(f"{name} must be a whole number from {low} to {high}, got {value!r}.")


def _number(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise TransformInvalid(f"{name} must be a number from {low} to {high}, got {value!r}.")


def _share(name: str, value: object) -> None:
    _number(name, value, 0.0, 1.0)
