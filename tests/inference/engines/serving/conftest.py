"""Models small enough to compute in a blink, of several architectures, in stores as tenants have them."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from inference.engines.base import EngineIdentity
from inference.engines.serving.loop import Job, Piece, TurnLock, make_job
from inference.engines.serving.registry import ServedModel, ServingOptions
from inference.engines.serving.sampling import Sampling
from inference.model_store import ModelStore, StoredModel

TINY: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.5,
}


def architectures() -> dict[str, Callable[[], Any]]:
    """Makers of random models by name."""
    import transformers as t

    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    gpt2 = {"vocab_size": 49152, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "initializer_range": 0.5}
    return {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**TINY)),
        "llama with llama3 rope": lambda: t.LlamaForCausalLM(t.LlamaConfig(**TINY, rope_parameters=llama3)),
        "llama with biases": lambda: t.LlamaForCausalLM(
            t.LlamaConfig(**TINY, attention_bias=True, mlp_bias=True)
        ),
        "llama, own head, one key head": lambda: t.LlamaForCausalLM(
            t.LlamaConfig(**{**TINY, "tie_word_embeddings": False, "num_key_value_heads": 1})
        ),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**TINY, sliding_window=None)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**TINY)),
        "mistral with a window": lambda: t.MistralForCausalLM(t.MistralConfig(**TINY, sliding_window=16)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**gpt2, **ends)),
    }


@pytest.fixture(scope="session")
def tiny_models(
    smollm: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], StoredModel]:
    """`tiny_models("gpt2")`: a stored random model with the real tokenizer."""
    import torch

    root = tmp_path_factory.mktemp("serving-stores")
    made: dict[str, StoredModel] = {}

    def make(name: str) -> StoredModel:
        if name not in made:
            torch.manual_seed(11)
            source = root / "sources" / str(len(made))
            model = architectures()[name]()
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if parameter_name.endswith("bias"):  # they start at zero and would prove nothing
                        parameter.normal_(0, 0.5)
            model.save_pretrained(str(source))
            for file in (
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "chat_template.jinja",
            ):
                if (smollm.path / file).exists():
                    shutil.copyfile(smollm.path / file, source / file)
            made[name] = ModelStore(root / "models" / "acme").import_directory(source)
        return made[name]

    return make


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., ServedModel]]:
    """`serve(stored, slots=4)`: a loaded model with its running loop; closed at the end."""
    opened: list[ServedModel] = []

    def open_one(stored: StoredModel, **options: Any) -> ServedModel:
        chosen = ServingOptions(**{"dtype": "float32", "slots": 4, "context": 256, **options})
        served = ServedModel(stored.path, EngineIdentity(stored.digest, stored.name), chosen, TurnLock())
        opened.append(served)
        return served

    yield open_one
    for served in opened:
        served.close()


@pytest.fixture(scope="session")
def tiny(tiny_models: Callable[[str], StoredModel], serve: Callable[..., ServedModel]) -> ServedModel:
    """The random Llama, served with four slots of 2,048 tokens."""
    return serve(tiny_models("llama"), context=2048)


@pytest.fixture(scope="session")
def served_smollm(smollm: StoredModel, serve: Callable[..., ServedModel]) -> ServedModel:
    """The real model, served with four slots of 512 tokens."""
    return serve(smollm, context=512)


class Asked:
    """One job, and what came of it."""

    def __init__(self, served: ServedModel, prompt: Sequence[int], **options: Any) -> None:
        self.sink: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        self.served = served
        self.job: Job = make_job(
            index=0,
            prompt=prompt,
            sampling=options.pop("sampling", Sampling(temperature=0.0)),
            max_tokens=options.pop("max_tokens", 12),
            stops=options.pop("stops", ()),
            decode=served.decode,
            sink=self.sink,
            **options,
        )
        self.pieces: list[Piece] = []

    def submit(self) -> Asked:
        self.served.loop.submit([self.job])
        return self

    def next(self, timeout: float = 120.0) -> Piece:
        piece = self.sink.get(timeout=timeout)
        self.pieces.append(piece)
        return piece

    def wait(self) -> Asked:
        while not (self.pieces and (self.pieces[-1].finish or self.pieces[-1].problem)):
            self.next()
        return self

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def finish(self) -> str:
        return self.pieces[-1].finish

    @property
    def tokens(self) -> list[int]:
        return self.job.out


def reference(model: Any, prompt: Sequence[int], max_tokens: int, ends: frozenset[int]) -> list[int]:
    """Greedy tokens by transformers' own generate, alone in its batch, the end token included."""
    import torch

    out = model.generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=min(ends),
        eos_token_id=sorted(ends),
    )
    return [int(token) for token in out[0, len(prompt) :]]


def plain_model(stored: StoredModel) -> Any:
    """The model as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(Path(stored.path)), dtype=torch.float32)
    return model.eval()
