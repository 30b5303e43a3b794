"""Smaller weights: close to the full ones, and a row's answer is its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inference.engines.serving.quantised import QUANTISERS, ByteLinear
from inference.engines.serving.registry import ServedModel, ServingOptions
from inference.model_store import StoredModel
from tests.inference.engines.serving.conftest import Asked


@pytest.mark.parametrize(("kind", "error"), [("float16", 1e-3), ("int8", 1.5e-2)])
def test_products_are_close_even_with_outlying_inputs(kind: str, error: float) -> None:
    import torch

    torch.manual_seed(0)
    weight, bias, x = torch.randn(96, 576) * 0.02, torch.randn(96), torch.randn(5, 576)
    x[:, 3] *= 60  # what a single 7-bit number per input would drown in
    expected = x @ weight.t() + bias
    found = QUANTISERS[kind](weight, bias)(x)
    assert float((found - expected).norm() / expected.norm()) < error


def test_an_int8_row_is_the_same_bit_for_bit_in_any_batch() -> None:
    import torch

    torch.manual_seed(1)
    product = ByteLinear(torch.randn(96, 64))
    x = torch.randn(9, 64) * torch.logspace(-2, 2, 9).unsqueeze(1)
    together = product(x)
    for row in range(9):
        assert torch.equal(product(x[row : row + 1])[0], together[row])


def test_nan_and_infinity_do_not_become_numbers() -> None:
    import torch

    product = ByteLinear(torch.randn(96, 64))
    x = torch.randn(3, 64)
    x[0, 5], x[1, 5] = float("nan"), float("inf")
    assert torch.isfinite(product(x)).all(dim=1).tolist() == [False, False, True]


def test_a_quantised_model_answers_alike_alone_and_in_company(
    tiny_models: Callable[[str], StoredModel], serve: Callable[..., ServedModel]
) -> None:
    served = serve(tiny_models("llama"), quantise="int8")
    assert served.facts()["quantise"] == "int8"
    prompts = [[300 + 7 * at, 900 + at, 1200] for at in range(8)]
    alone = [Asked(served, prompt).submit().wait().tokens for prompt in prompts]
    together = [Asked(served, prompt).submit() for prompt in prompts]
    assert [one.wait().tokens for one in together] == alone


@pytest.mark.parametrize(
    "wrong", [{"quantise": "int3"}, {"slots": 0}, {"quantise": "int8", "device": "cuda"}]
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        ServingOptions.from_mapping(wrong)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="slotz"):
        ServingOptions.from_mapping({"slotz": 3})
