"""Train the embedded demo model on the documentation that every Python installation carries.

A byte-level BPE tokenizer and a 12-layer Llama (grouped-query attention, tied embeddings), both from scratch, on the
training part of `remodeler.data.pydocs` only. Training reads random windows of the whole token stream; the weights are
stored in bfloat16.

    python scripts/train_demo_model.py --out src/remodeler/demo_model --minutes 28
"""

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from remodeler.data import pydocs

BOS, EOS = "<s>", "</s>"


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train; the rate follows a warm-up and then a cosine over the time that was given."""

    minutes: float
    batch: int
    window: int
    rate: float
    decay: float
    warmup: float = 0.02
    floor: float = 0.02


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts `<s>` once before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def new_model(arguments: argparse.Namespace) -> LlamaForCausalLM:
    """Random weights in the shape that the command line asks for."""
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.intermediate,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.heads // 2,
        head_dim=arguments.head_dim,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:  # what many layers add to the stream starts small, as in GPT-2
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * arguments.layers))
    return model


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """All texts in one row, each with `<s>` before it and `</s>` after it."""
    return torch.tensor([token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])


def random_windows(stream: Tensor, settings: Settings, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of windows at random places, without end."""
    offsets = torch.arange(settings.window + 1)
    while True:
        starts = torch.randint(len(stream) - settings.window, (settings.batch, 1), generator=generator)
        yield stream[starts + offsets]


def loss_of(model: LlamaForCausalLM, windows: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of every token but the first, the logarithm in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(windows[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction)


@torch.inference_mode()
def perplexity(model: LlamaForCausalLM, stream: Tensor, window: int) -> float:
    """Of all whole windows of the stream."""
    model.eval()
    windows = stream[: len(stream) // window * window].view(-1, window)
    total = sum(loss_of(model, some, "sum").double().item() for some in windows.split(4))
    model.train()
    return math.exp(total / (windows.shape[0] * (window - 1)))


def optimizer_of(model: LlamaForCausalLM, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; the norms' gains do not decay."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    gains = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), fused=True)


def rate_at(done: float, settings: Settings) -> float:
    """The learning rate after this fraction of the time."""
    if done < settings.warmup:
        return settings.rate * max(done / settings.warmup, 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - settings.warmup) / (1 - settings.warmup))))
    return settings.rate * (settings.floor + (1 - settings.floor) * cosine)


def train(model: LlamaForCausalLM, stream: Tensor, heldout: Tensor, settings: Settings, seed: int) -> None:
    """Until the time is up; time, not steps, so that a slow machine ends too."""
    optimizer = optimizer_of(model, settings)
    start, reports = time.monotonic(), 0
    for step, windows in enumerate(random_windows(stream, settings, torch.Generator().manual_seed(seed)), 1):
        done = (time.monotonic() - start) / (60 * settings.minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate_at(done, settings)
        loss = loss_of(model, windows)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if done * 15 >= reports:
            reports += 1
            epochs, heard = step * windows[:, 1:].numel() / len(stream), perplexity(model, heldout, settings.window)
            print(
                f"step {step:5d}  epoch {epochs:5.1f}  loss {loss.item():.3f}  held-out perplexity {heard:8.2f}  "
                f"ETA {(1 - done) * settings.minutes:4.1f} min",
                flush=True,
            )


@contextmanager
def silenced(projection: nn.Module) -> Iterator[None]:
    """The block that ends in this projection adds nothing."""
    handle = projection.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    try:
        yield
    finally:
        handle.remove()


def print_importances(model: LlamaForCausalLM, stream: Tensor, window: int) -> None:
    """Perplexity on the calibration part without each attention and without each MLP."""
    print(f"calibration perplexity {perplexity(model, stream, window):.2f}; without one block:")
    print("layer  attention        mlp")
    for index, layer in enumerate(model.model.layers):
        figures = []
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            with silenced(projection):
                figures.append(perplexity(model, stream, window))
        print(f"{index:5d}  {figures[0]:9.2f}  {figures[1]:9.2f}", flush=True)


def arguments_of_command_line() -> argparse.Namespace:
    """The defaults made the model that the package carries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--minutes", type=float, default=28.0, help="time for the training itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--intermediate", type=int, default=320)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    return parser.parse_args()


def main() -> None:
    """Gather the text, train the tokenizer and the model, store both, say how good they are."""
    arguments = arguments_of_command_line()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    settings = Settings(arguments.minutes, arguments.batch, arguments.window, arguments.rate, arguments.decay)
    tokenizer = train_tokenizer(pydocs.texts("train"), arguments.vocabulary)
    streams = {part: token_stream(tokenizer, pydocs.texts(part)) for part in pydocs.PARTS}
    print("tokens:", {part: len(stream) for part, stream in streams.items()})
    model = new_model(arguments)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    train(model, streams["train"], streams["heldout"], settings, arguments.seed)
    model.bfloat16().save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    stored = LlamaForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    print(f"held-out perplexity as stored: {perplexity(stored, streams['heldout'], settings.window):.2f}")
    print_importances(stored, streams["calibration"], settings.window)


if __name__ == "__main__":
    main()
