"""Transforms are deterministic, do what they say, and make real model versions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.model_store import ModelStore
from inference.transforms import TransformInvalid, apply_transform, quantize_rtn

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("quantize_rtn", {"bits": 4, "group_size": 32}),
    ("zero_heads", {"fraction": 0.25, "seed": 3}),
    ("add_noise", {"sigma": 0.1, "seed": 3}),
    ("prune_magnitude", {"fraction": 0.5}),
    ("drop_layer", {"layer": 0}),
]


@pytest.fixture
def parent(tiny_copy, store: ModelStore):  # type: ignore[no-untyped-def]
    return store.import_directory(tiny_copy, name="parent", licence="MIT")


def weights(model) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    from safetensors.torch import load_file

    return load_file(str(model.path / "model.safetensors"))


@pytest.mark.parametrize(("name", "params"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_a_transform_makes_the_same_new_version_each_time(
    name: str, params: dict[str, Any], parent: Any, store: ModelStore
) -> None:
    first = apply_transform(store, parent, name, params)
    second = apply_transform(store, parent.digest, name, params)
    assert first.digest == second.digest != parent.digest
    assert first.transform["name"] == name
    assert first.transform["params"] == params
    assert first.transform["parent"] == parent.digest
    assert first.licence == "MIT"
    assert store.verify(parent.digest).digest == parent.digest


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("zero_heads", {"fraction": 0.25, "seed": 1}, {"fraction": 0.25, "seed": 2}),
        ("add_noise", {"sigma": 0.1, "seed": 1}, {"sigma": 0.1, "seed": 2}),
        ("quantize_rtn", {"bits": 4, "group_size": 32}, {"bits": 3, "group_size": 32}),
    ],
)
def test_seed_and_parameters_matter(
    name: str, one: dict[str, Any], other: dict[str, Any], parent: Any, store: ModelStore
) -> None:
    assert (
        apply_transform(store, parent, name, one).digest != apply_transform(store, parent, name, other).digest
    )


def test_rounding_leaves_at_most_two_to_the_bits_values_per_group(parent: Any, store: ModelStore) -> None:
    made = weights(apply_transform(store, parent, "quantize_rtn", {"bits": 3, "group_size": 16}))
    before = weights(parent)
    name = "model.layers.0.mlp.down_proj.weight"
    for group in made[name].reshape(-1, 16):
        assert len(group.unique()) <= 8
    assert not torch.equal(made[name], before[name])
    assert torch.equal(made["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert torch.equal(made["model.norm.weight"], before["model.norm.weight"])


@given(
    bits=st.integers(2, 8),
    group=st.integers(8, 40),
    columns=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_rounding_is_off_by_at_most_half_a_step(bits: int, group: int, columns: int, seed: int) -> None:
    weight = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    state = {"layers.0.a.weight": weight.clone()}
    quantize_rtn(state, {}, bits=bits, group_size=group)
    for start in range(0, columns, group):
        before, after = weight[:, start : start + group], state["layers.0.a.weight"][:, start : start + group]
        step = (before.amax(1, keepdim=True) - before.amin(1, keepdim=True)) / (2**bits - 1)
        assert bool(((before - after).abs() <= step / 2 + 1e-5).all())


def test_a_constant_group_stays_as_it_is() -> None:
    state = {"layers.0.a.weight": torch.full((2, 8), 0.37)}
    quantize_rtn(state, {}, bits=3, group_size=8)
    assert torch.equal(state["layers.0.a.weight"], torch.full((2, 8), 0.37))


def test_zeroed_heads_are_whole_heads(parent: Any, store: ModelStore) -> None:
    model = apply_transform(store, parent, "zero_heads", {"fraction": 0.25, "seed": 3})
    listed = {tuple(pair) for pair in model.transform["facts"]["layer_and_head"]}
    assert model.transform["facts"]["zeroed"] == len(listed) == 2  # a quarter of 2 layers of 4 heads
    state = weights(model)
    for layer in range(2):
        for head in range(4):
            columns = state[f"model.layers.{layer}.self_attn.o_proj.weight"][:, head * 8 : head * 8 + 8]
            assert bool((columns == 0).all()) == ((layer, head) in listed)


def test_pruning_takes_the_smallest(parent: Any, store: ModelStore) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    before = weights(parent)[name].abs()
    after = weights(apply_transform(store, parent, "prune_magnitude", {"fraction": 0.5}))[name]
    assert int((after == 0).sum()) == before.numel() // 2
    assert float(before[after == 0].max()) <= float(before[after != 0].min())


def test_dropping_a_layer_makes_a_shallower_model_that_loads(parent: Any, store: ModelStore) -> None:
    model = apply_transform(store, parent, "drop_layer", {"layer": 0})
    assert model.parameters < parent.parameters
    state, before = weights(model), weights(parent)
    assert not any(".layers.1." in name for name in state)
    name = "self_attn.q_proj.weight"
    assert torch.equal(state[f"model.layers.0.{name}"], before[f"model.layers.1.{name}"])


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("melt", {}),
        ("quantize_rtn", {"bits": 4}),
        ("quantize_rtn", {"bits": 1, "group_size": 32}),
        ("quantize_rtn", {"bits": 4.0, "group_size": 32}),
        ("zero_heads", {"fraction": 1.5, "seed": 1}),
        ("zero_heads", {"fraction": 0.5, "seed": -1}),
        ("add_noise", {"sigma": float("nan"), "seed": 1}),
        ("drop_layer", {"layer": 2}),
        ("prune_magnitude", {"fraction": 0.0}),
    ],
    ids=lambda value: str(value),
)
def test_wrong_or_empty_transforms_are_refused(
    name: str, params: dict[str, Any], parent: Any, store: ModelStore
) -> None:
    with pytest.raises(TransformInvalid):
        apply_transform(store, parent, name, params)
    assert store.digests() == [parent.digest]
