"""The watermark: the same green lists as transformers, honest p-values, keys that rotate."""

from __future__ import annotations

import numpy as np
import pytest

from core.security.actor import Actor, use_actor
from inference.knobs import watermark
from inference.knobs.models import WatermarkKey
from inference.knobs.watermark import GAMMA, WatermarkTextInvalid, detect, key_number, watermark_parameters

KEY = "2b7e151628aed2a7"
SIZE = 1000
ADMIN = Actor("user", "1", "Admin", ("admin",), schema="alpha")


def marked(length: int, *, seed: int, key: str = KEY) -> list[int]:
    """Tokens drawn from the green list four times out of five."""
    import torch
    from transformers.generation.logits_process import WatermarkLogitsProcessor

    processor = WatermarkLogitsProcessor(
        SIZE, "cpu", greenlist_ratio=GAMMA, bias=2.0, hashing_key=key_number(key)
    )
    generator = np.random.default_rng(seed)
    tokens = [5]
    for _ in range(length):
        green = processor._get_greenlist_ids(torch.tensor(tokens)).numpy()
        tokens.append(
            int(generator.choice(green)) if generator.random() < 0.8 else int(generator.integers(SIZE))
        )
    return tokens


def test_our_detector_counts_as_transformers_does() -> None:
    import torch
    from transformers import PretrainedConfig, WatermarkDetector, WatermarkingConfig

    tokens = marked(60, seed=1)
    config = WatermarkingConfig(greenlist_ratio=GAMMA, bias=2.0, hashing_key=key_number(KEY), context_width=1)
    theirs = WatermarkDetector(
        PretrainedConfig(vocab_size=SIZE, bos_token_id=SIZE + 1), "cpu", config, ignore_repeated_ngrams=True
    )(torch.tensor([tokens]), return_dict=True)
    ours = detect(tokens, KEY, vocab_size=SIZE)
    assert (ours.n_tokens, ours.green) == (int(theirs.num_tokens_scored[0]), int(theirs.num_green_tokens[0]))
    assert ours.z == pytest.approx(float(theirs.z_score[0]))
    assert ours.p_value < 1e-6


def test_p_values_of_unmarked_text_are_honest() -> None:
    generator = np.random.default_rng(2)
    values = [
        detect(generator.integers(SIZE, size=60).tolist(), KEY, vocab_size=SIZE).p_value for _ in range(400)
    ]
    for level in (0.01, 0.05, 0.2):
        # Exact tests of counts are conservative; four standard deviations above the level is not chance.
        assert np.mean([p <= level for p in values]) <= level + 4 * (level * (1 - level) / 400) ** 0.5


def test_repeating_a_green_pair_proves_nothing() -> None:
    tokens = marked(2, seed=3)[:2] * 50
    assert detect(tokens, KEY, vocab_size=SIZE).n_tokens == 2


def test_another_key_finds_nothing() -> None:
    assert detect(marked(100, seed=4), "0123456789abcdef", vocab_size=SIZE).p_value > 0.001


@pytest.mark.parametrize("tokens", [[], [1], [1, SIZE], [-1, 2]])
def test_what_cannot_be_judged_is_refused(tokens: list[int]) -> None:
    with pytest.raises(WatermarkTextInvalid):
        detect(tokens, KEY, vocab_size=SIZE)


def test_a_tenants_key_is_its_own_and_stays_sealed(db: None) -> None:
    watermark.keys_forget()
    ours, theirs = watermark_parameters("alpha"), watermark_parameters("beta")
    assert ours["key"] != theirs["key"] and ours["gamma"] == GAMMA and int(ours["key"], 16) < 2**62
    assert bytes.fromhex(ours["key"]) not in bytes(WatermarkKey.objects.get().secret_sealed)
    watermark.keys_forget()
    assert watermark_parameters("alpha") == ours


def test_marks_of_a_retired_key_are_still_found(db: None) -> None:
    watermark.keys_forget()
    old = watermark_parameters("alpha")["key"]
    with use_actor(ADMIN):
        fresh = watermark.watermark_rotate()
    watermark.keys_forget()
    assert fresh.version == 2 and watermark_parameters("alpha")["key"] != old
    found, each = watermark.detect_any(marked(60, seed=5, key=old), vocab_size=SIZE)
    assert found.key_version == 1 and found.p_value < 1e-6 and len(each) == 2


def test_without_any_key_nothing_can_be_found(db: None) -> None:
    with pytest.raises(WatermarkTextInvalid, match="ever marked"):
        watermark.detect_any([1, 2, 3], vocab_size=SIZE)
