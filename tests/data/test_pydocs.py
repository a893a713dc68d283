"""The text that Python carries, and the model that was trained on it."""

import math
import statistics
import sysconfig
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from remodeler.data import pydocs
from remodeler.errors import InputError

FOLDER = Path(str(files("remodeler") / "demo_model"))
WINDOW = 256


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Iterator[PreTrainedModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    torch.set_num_threads(threads)


def paragraphs(part: pydocs.Part) -> set[str]:
    """Long paragraphs, however they are wrapped."""
    keys = (" ".join(piece.split()) for text in pydocs.texts(part) for piece in text.split("\n\n"))
    return {key for key in keys if len(key) >= pydocs.SHORTEST_PARAGRAPH}


def windows_of(tokenizer: PreTrainedTokenizerBase, part: pydocs.Part, count: int) -> Tensor:
    """[count, WINDOW]: windows spread over the whole part, so that no single document decides."""
    ids = [token for text in pydocs.texts(part) for token in tokenizer(text, verbose=False)["input_ids"]]
    windows = torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    return windows[:: len(windows) // count][:count]


@torch.inference_mode()
def perplexity(model: PreTrainedModel, windows: Tensor) -> float:
    logits = torch.cat([model(some[:, :-1]).logits for some in windows.split(4)])
    return math.exp(nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item())


def perplexity_without(model: PreTrainedModel, projection: nn.Module, windows: Tensor) -> float:
    """Of the model in which the block that ends in this projection adds nothing."""
    handle = projection.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    try:
        return perplexity(model, windows)
    finally:
        handle.remove()


def test_no_paragraph_is_in_two_parts() -> None:
    train, calibration, heldout = (paragraphs(part) for part in ("train", "calibration", "heldout"))
    assert not train & calibration
    assert not train & heldout
    assert not calibration & heldout


def test_parts_have_about_90_5_and_5_percent() -> None:
    sizes = {part: sum(len(text) for text in pydocs.texts(part)) for part in pydocs.PARTS}
    assert sum(sizes.values()) > 1_000_000
    shares = {part: size / sum(sizes.values()) for part, size in sizes.items()}
    assert 0.8 < shares["train"] < 0.95
    assert shares["calibration"] > 0.025
    assert shares["heldout"] > 0.025


def test_the_order_in_which_files_are_found_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(pydocs._topics())
    monkeypatch.setattr(pydocs, "_modules", lambda folder: iter(()))
    parts = pydocs._parts.__wrapped__()
    monkeypatch.setattr(pydocs, "_topics", lambda: reversed(found))
    assert pydocs._parts.__wrapped__() == parts


def test_the_part_depends_on_the_name_alone() -> None:
    assert [pydocs.part_of(name) for name in ("module ast", "module difflib", "module asyncio.queues")] == [
        "train",
        "calibration",
        "heldout",
    ]
    names = [f"module {number}" for number in range(2000)]
    assert 0.85 < sum(pydocs.part_of(name) == "train" for name in names) / len(names) < 0.95


def test_repeated_paragraphs_are_dropped_and_short_ones_kept() -> None:
    long = "This sentence is long enough to be compared with others."
    other = "So is this one, which says something else again."
    seen: set[str] = set()
    assert pydocs._without(f"{long}\n\nShort.", seen) == f"{long}\n\nShort."
    assert pydocs._without(f"{long.replace(' ', chr(10))}\n\nShort.", seen) == ""
    assert pydocs._without(f"Short.\n\n{long}\n\n{other}", seen) == f"Short.\n\n{other}"


def test_docstrings_are_read_and_never_run(tmp_path: Path) -> None:
    source = (
        '"""Of the module."""\nraise SystemExit\n'
        'class A:\n    """Of a class.\n\n    Indented."""\n    def f(self):\n        "Of f."\n'
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "skipped.py").write_text(source)
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "some.py").write_text(source)
    found = dict(pydocs._modules(tmp_path))
    assert found == {"module broken": [], "module some": ["Of the module.", "Of a class.\n\nIndented.", "Of f."]}


def test_an_installation_without_text_and_an_unknown_part_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no part 'test'"):
        pydocs.texts("test")  # type: ignore[arg-type]
    monkeypatch.setattr(pydocs, "_topics", lambda: iter(()))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match="carries no documentation"):
        pydocs._parts.__wrapped__()


def test_the_model_is_small_and_plain() -> None:
    names = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6_000_000
    assert not any(path.suffix in (".bin", ".pt", ".pkl", ".py") for path in FOLDER.iterdir())


def test_the_tokenizer_begins_each_text_and_loses_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "def f(x):\n    return 'ünïcode — 漢字' + x\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in ids[1:]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_model_knows_text_it_has_not_read(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    windows = windows_of(tokenizer, "heldout", 24)
    assert perplexity(model, windows) < model.config.vocab_size / 20
    shuffled = windows[:, torch.randperm(WINDOW, generator=torch.Generator().manual_seed(0))]
    assert perplexity(model, shuffled) > model.config.vocab_size / 20  # the order of the tokens is what it knows


def test_the_ends_matter_more_than_the_middle(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    windows = windows_of(tokenizer, "calibration", 8)
    layers = model.model.layers
    assert len(layers) >= 12
    without = {
        (index, kind): perplexity_without(model, projection, windows)
        for index, layer in enumerate(layers)
        for kind, projection in (("attention", layer.self_attn.o_proj), ("mlp", layer.mlp.down_proj))
    }
    middle = [key for key in without if len(layers) // 4 <= key[0] < 3 * len(layers) // 4]
    assert without[0, "mlp"] > 2 * max(without[key] for key in middle)
    # The attention of one middle layer finds what was said before and costs more than the last layer's blocks.
    assert without[len(layers) - 1, "mlp"] > max(without[key] for key in middle if key[1] == "mlp")
    assert without[len(layers) - 1, "mlp"] > statistics.median(without[key] for key in middle)
