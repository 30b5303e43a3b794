"""The fast path: Llama and the models built like it, with fused projections and one static key-value cache.

The arithmetic is that of transformers' ``LlamaForCausalLM`` (in fp32 the tokens are equal, tests hold it to
that); what differs is how few operators a step needs: query, key and value are one product, gate and up another,
rotary positions are applied to queries and keys at once, keys and values are written by one assignment, and the
heads that share a key are one attention row, so that no key is ever repeated in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.engines.serving.quantised import QUANTISERS
from inference.engines.serving.runner import Decode, Segment

# Architectures whose layers are Llama's; a self-check at loading has the last word.
LIKE_LLAMA = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}
# Rotary embeddings whose angles do not depend on the length of the text.
FIXED_ROPES = {"default", "linear", "llama3", "yarn"}


def why_not_fast(config: Any, architecture: str) -> str:
    """The reason the fast path cannot run this model; "" when it can."""
    if architecture not in LIKE_LLAMA:
        return f"the architecture {architecture} is not one of {', '.join(sorted(LIKE_LLAMA))}"
    if getattr(config, "hidden_act", "") != "silu":
        return f"its activation is {getattr(config, 'hidden_act', None)!r}, not silu"
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"} or (
        architecture == "MistralForCausalLM" and getattr(config, "sliding_window", None)
    ):
        return "it uses sliding-window attention"
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") not in FIXED_ROPES:
        return f"its rotary embedding is of type {rope.get('rope_type')!r}"
    return ""


@dataclass(slots=True)
class _Layer:
    """One layer's weights as (weight, bias) and, when there is one, its quantised copy."""

    qkv: tuple[Any, Any]
    out: tuple[Any, Any]
    gate_up: tuple[Any, Any]
    down: tuple[Any, Any]
    in_norm: Any
    post_norm: Any
    small: tuple[Any, ...] = ()


class FastLlama:
    """Weights and cache of one model. The transformers model it is made from is emptied on the way."""

    name = "llama"
    shares_prefix = True

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        context: int,
        device: str = "cpu",
        quantise: str = "",
        quantise_rows: int = 32,
    ) -> None:
        import torch

        self._torch = torch
        self._linear = torch.nn.functional.linear
        config = model.config
        self.slots, self.context = slots, context
        self.device = device
        base = model.model
        self._embed = base.embed_tokens.weight.detach()
        self._dtype = self._embed.dtype
        self.vocabulary = int(model.lm_head.weight.shape[0])
        self._hidden = int(config.hidden_size)
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads or self._heads)
        self._head_size = int(getattr(config, "head_dim", None) or self._hidden // self._heads)
        self._groups = self._heads // self._kv_heads
        self._eps = float(config.rms_norm_eps)
        self._scale = self._head_size**-0.5
        self._head_weight = model.lm_head.weight.detach()
        self._head_bias = getattr(model.lm_head, "bias", None)
        with torch.inference_mode():
            positions = torch.arange(context, device=device).unsqueeze(0)
            probe = torch.zeros(1, 1, 1, dtype=self._dtype, device=device)
            cos, sin = base.rotary_emb(probe, positions)
            # rotate_half(x) * sin == roll(x, half) * (sin with its first half negated)
            half = self._head_size // 2
            sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
            self._cos, self._sin = cos[0].contiguous(), sin[0].contiguous()
        self._layers = [self._take(layer) for layer in base.layers]
        self._norm = base.norm.weight.detach()
        self._small_head: Any = None
        self.quantise, self.quantise_rows = quantise, quantise_rows
        self._small_bytes = 0
        if quantise:
            self._quantise(quantise)
        # zeros, not empty: a mask hides a finite number, never NaN. The system hands zero pages out when they
        # are first written, so memory grows with use up to kv_bytes().
        shape = (slots, 2, self._kv_heads, context, self._head_size)
        self._kv = [torch.zeros(shape, dtype=self._dtype, device=device) for _ in self._layers]

    def _take(self, source: Any) -> _Layer:
        """Fuse one layer's projections and let go of the originals."""
        torch = self._torch
        attention, mlp = source.self_attn, source.mlp

        def fused(*parts: Any) -> tuple[Any, Any]:
            weight = torch.cat([part.weight.detach() for part in parts])
            biases = [part.bias for part in parts]
            bias = torch.cat([b.detach() for b in biases]) if biases[0] is not None else None
            for part in parts:
                part.weight = None
            return weight, bias

        return _Layer(
            qkv=fused(attention.q_proj, attention.k_proj, attention.v_proj),
            out=(attention.o_proj.weight.detach(), attention.o_proj.bias),
            gate_up=fused(mlp.gate_proj, mlp.up_proj),
            down=(mlp.down_proj.weight.detach(), mlp.down_proj.bias),
            in_norm=source.input_layernorm.weight.detach(),
            post_norm=source.post_attention_layernorm.weight.detach(),
        )

    def _quantise(self, kind: str) -> None:
        make = QUANTISERS[kind]
        for layer in self._layers:
            layer.small = tuple(
                make(weight, bias) for weight, bias in (layer.qkv, layer.out, layer.gate_up, layer.down)
            )
            self._small_bytes += sum(part.nbytes for part in layer.small)
        self._small_head = make(self._head_weight, self._head_bias)
        self._small_bytes += self._small_head.nbytes

    # ---- facts -----------------------------------------------------------------------------------------------

    def kv_bytes(self) -> int:
        """Bytes set aside for keys and values: 2 x layers x slots x context x key heads x head size x element."""
        return sum(int(kv.numel() * kv.element_size()) for kv in self._kv)

    def weight_bytes(self) -> int:
        """Bytes of the weights, the quantised copy included."""
        seen: dict[int, int] = {}
        tensors = [self._embed, self._head_weight, self._norm]
        for layer in self._layers:
            tensors += [layer.qkv[0], layer.out[0], layer.gate_up[0], layer.down[0]]
        for tensor in tensors:
            seen[tensor.data_ptr()] = int(tensor.numel() * tensor.element_size())
        return sum(seen.values()) + self._small_bytes

    # ---- slots -----------------------------------------------------------------------------------------------

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first ``length`` positions of two slots."""
        with self._torch.inference_mode():
            for kv in self._kv:
                kept = kv[a, :, :, :length].clone()
                kv[a, :, :, :length] = kv[b, :, :, :length]
                kv[b, :, :, :length] = kept

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give ``target`` the first ``length`` positions of ``source``."""
        with self._torch.inference_mode():
            for kv in self._kv:
                kv[target, :, :, :length] = kv[source, :, :, :length]

    def clear(self, slot: int) -> None:
        """Zero a slot."""
        with self._torch.inference_mode():
            for kv in self._kv:
                kv[slot].zero_()

    # ---- computing -------------------------------------------------------------------------------------------

    def step(self, decodes: Sequence[Decode], segments: Sequence[Segment]) -> tuple[Any, list[Any]]:
        """See Runner. With a quantised copy the decodes run on it, alone; else all tokens share one pass."""
        small = bool(self.quantise) and 0 < len(decodes) <= self.quantise_rows
        with self._torch.inference_mode():
            if small and segments:
                logits = self._logits(self._forward(decodes, (), small=True), small=True)
                hidden = self._forward((), segments, small=False)
                first = 0
            else:
                hidden = self._forward(decodes, segments, small=small)
                first = len(decodes)
                logits = self._logits(hidden[:first], small=small) if first else None
            parts = []
            for segment in segments:
                rows = len(segment.tokens) if segment.every else 1
                parts.append(hidden[first : first + rows])
                first += rows
        return logits, parts

    def head(self, hidden: Any) -> Any:
        """fp32 logits of full precision on the CPU, (rows, vocabulary)."""
        with self._torch.inference_mode():
            return self._logits(hidden, small=False)

    def _logits(self, hidden: Any, *, small: bool) -> Any:
        if small:
            return self._small_head(hidden).float().cpu()
        return self._linear(hidden, self._head_weight, self._head_bias).float().cpu()

    def _rms(self, x: Any, weight: Any) -> Any:
        torch = self._torch
        if x.dtype == torch.float32:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self._eps) * weight
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._eps)
        return weight * wide.to(x.dtype)

    def _forward(self, decodes: Sequence[Decode], segments: Sequence[Segment], *, small: bool) -> Any:
        """Normed hidden states: a row per decode, then for each segment its last or all rows.

        All tokens lie in one flat (tokens, hidden) matrix for the products; attention is done for the decoding
        slots together and for each segment alone.
        """
        torch = self._torch
        linear = self._linear
        count = len(decodes)
        tokens = [decode.token for decode in decodes]
        places = [decode.position for decode in decodes]
        slots = list(range(count))
        spans: list[tuple[int, int, int, int]] = []  # first row, rows, slot, end position
        for segment in segments:
            first, size = len(tokens), len(segment.tokens)
            tokens.extend(segment.tokens)
            places.extend(range(segment.start, segment.start + size))
            slots.extend([segment.slot] * size)
            spans.append((first, size, segment.slot, segment.start + size))
        where = torch.tensor(places, device=self.device)
        slot_index = torch.tensor(slots, device=self.device)
        x = self._embed[torch.tensor(tokens, device=self.device)]
        cos, sin = self._cos[where].unsqueeze(1), self._sin[where].unsqueeze(1)
        heads, kv_heads, groups, size_of = self._heads, self._kv_heads, self._groups, self._head_size
        rotated = heads + kv_heads
        half = size_of // 2
        longest = max(places[:count], default=-1) + 1
        mask = None
        if count and min(places[:count]) + 1 < longest:
            seen = torch.arange(longest, device=self.device) <= where[:count].unsqueeze(1)
            mask = torch.zeros(count, longest, dtype=x.dtype, device=self.device)
            mask.masked_fill_(~seen, float("-inf"))
            mask = mask.view(count, 1, 1, longest).expand(count, 1, groups, longest)
        masks = []
        for first, size, _, end in spans:
            rows = where[first : first + size].unsqueeze(1)
            own = torch.arange(end, device=self.device) <= rows
            masks.append(own.repeat(groups, 1))
        attend = torch.nn.functional.scaled_dot_product_attention
        silu = torch.nn.functional.silu
        for layer, kv in zip(self._layers, self._kv, strict=True):
            normed = self._rms(x, layer.in_norm)
            if small:
                qkv_of, out_of, gate_up_of, down_of = layer.small
                qkv = qkv_of(normed)
            else:
                qkv = linear(normed, *layer.qkv)
            qkv = qkv.view(len(tokens), rotated + kv_heads, size_of)
            turn = qkv[:, :rotated]
            turned = torch.addcmul(turn * cos, turn.roll(half, -1), sin)
            values = qkv[:, rotated:]
            kv[slot_index, 0, :, where] = turned[:, heads:]
            kv[slot_index, 1, :, where] = values
            mixed = torch.empty(len(tokens), heads * size_of, dtype=x.dtype, device=self.device)
            if count:
                query = turned[:count, :heads].reshape(count, kv_heads, groups, size_of)
                found = attend(
                    query,
                    kv[:count, 0, :, :longest],
                    kv[:count, 1, :, :longest],
                    attn_mask=mask,
                    scale=self._scale,
                )
                mixed[:count] = found.reshape(count, -1)
            for (first, size, slot, end), own in zip(spans, masks, strict=True):
                query = turned[first : first + size, :heads].view(size, kv_heads, groups, size_of)
                query = query.permute(1, 2, 0, 3).reshape(1, kv_heads, groups * size, size_of)
                found = attend(
                    query,
                    kv[slot : slot + 1, 0, :, :end],
                    kv[slot : slot + 1, 1, :, :end],
                    attn_mask=own,
                    scale=self._scale,
                )
                found = found.view(kv_heads, groups, size, size_of).permute(2, 0, 1, 3)
                mixed[first : first + size] = found.reshape(size, -1)
            if small:
                x = x + out_of(mixed)
                gate, up = gate_up_of(self._rms(x, layer.post_norm)).chunk(2, -1)
                x = x + down_of(silu(gate) * up)
            else:
                x = x + linear(mixed, *layer.out)
                gate, up = linear(self._rms(x, layer.post_norm), *layer.gate_up).chunk(2, -1)
                x = x + linear(silu(gate) * up, *layer.down)
        wanted = list(range(count))
        for (first, size, _, _), segment in zip(spans, segments, strict=True):
            wanted.extend(range(first, first + size) if segment.every else [first + size - 1])
        if len(wanted) < len(tokens):
            x = x[torch.tensor(wanted, device=self.device)]
        return self._rms(x, self._norm)
