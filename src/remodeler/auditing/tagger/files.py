"""A tagger on disk: an ordinary encoder checkpoint with its tokenizer, ``head.safetensors`` and ``tagger.json``."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from remodeler.auditing.tagger.model import Head, Tagger
from remodeler.auditing.tagger.rules import Rules
from remodeler.checkpoint.companions import write_tokenizer
from remodeler.checkpoint.compatibility import complete_config
from remodeler.checkpoint.config_faults import refuse_quantised
from remodeler.checkpoint.load import check_files, context_of, one_sentence, pick_device, read_settings, read_tokenizer
from remodeler.checkpoint.repositories import note_adapter, without_adapter
from remodeler.errors import InputError
from remodeler.runs.records import read_json, write_json

SETTINGS_FILE, HEAD_FILE = "tagger.json", "head.safetensors"
SHIPPED = "small-tagger"
"""The name of the tagger that travels along; docs/benchmarks/auditing.md says how it was made and what it scores."""


@dataclass(frozen=True)
class Settings:
    """What a tagger is beside its weights: the content of ``tagger.json``."""

    head: Head = field(default_factory=Head)
    rules: Rules = field(default_factory=Rules)
    length: int = 256
    """Pieces of a window, special tokens included; fewer if the encoder takes fewer."""
    stride: int = 64
    """Pieces by which windows overlap."""


@dataclass(frozen=True)
class Trained:
    """A tagger ready for use."""

    model: Tagger
    tokenizer: Any
    settings: Settings
    name: str = ""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device


def new_tagger(encoder: str, settings: Settings, seed: int, device: str = "auto", trust: bool = False) -> Trained:
    """An encoder with a head that has learned nothing; the same for the same seed."""
    if (Path(encoder) / SETTINGS_FILE).exists():
        raise InputError(f"{encoder} is a tagger already: give an encoder, as the one that it was made of")
    torch.manual_seed(seed)  # before the encoder: where a checkpoint has no pooler, it gets a random one
    return _built(encoder, settings, device, trust, complete=False)


def located(source: str | Path) -> Path:
    """The folder of a tagger: the one that is named, or that of the tagger that travels along."""
    return Path(__file__).parent / SHIPPED if str(source) == SHIPPED else Path(source)


def load_tagger(folder: str | Path, device: str = "auto", trust: bool = False) -> Trained:
    """A tagger from its folder, in eval mode.

    Raises:
        InputError: when the folder is no tagger, or not whole.
    """
    folder = located(folder)
    if not (folder / SETTINGS_FILE).exists():
        raise InputError(f"{folder} holds no {SETTINGS_FILE}: give a folder that `remodel audit train` made")
    found = _built(str(folder), _settings(folder), device, trust, complete=True)
    with one_sentence(str(folder), "the head"):
        weights = load_file(folder / HEAD_FILE, device=str(found.device))
        if weights.keys() != found.model.head_parameters().keys():
            raise SafetensorError(f"{HEAD_FILE} does not fit {SETTINGS_FILE}")
        found.model.load_state_dict(weights, strict=False)
    found.model.eval()
    return found


def save_tagger(trained: Trained, folder: Path) -> None:
    """Write a tagger into a folder: everything that :func:`load_tagger` needs, and stock transformers can read."""
    with one_sentence(str(folder), "the tagger"):
        trained.model.encoder.save_pretrained(folder)
        complete_config(folder)
        write_tokenizer(trained.tokenizer, folder, located(trained.name))
    head = {name: value.detach().cpu().contiguous() for name, value in trained.model.head_parameters().items()}
    save_file(head, folder / HEAD_FILE)
    write_json(folder / SETTINGS_FILE, asdict(trained.settings))


def _settings(folder: Path) -> Settings:
    value = read_json(folder / SETTINGS_FILE)
    try:
        return Settings(Head(**value["head"]), Rules(**value["rules"]), value["length"], value["stride"])
    except (TypeError, KeyError) as error:
        known = ", ".join(each.name for each in fields(Settings))
        raise InputError(f"{folder / SETTINGS_FILE} is not of this tool ({error}): it needs {known}") from None


def _built(name: str, settings: Settings, device: str, trust: bool, complete: bool) -> Trained:
    """Encoder and tokenizer from a folder or the hub, and the head on them with random numbers."""
    target = pick_device(device)
    kind = read_settings(name, None)
    if kind.get("is_encoder_decoder"):
        raise InputError(f"{name} is an encoder with a decoder: give an encoder, as BERT, ALBERT, RoBERTa or XLNet")
    refuse_quantised(name, kind)
    check_files(Path(name))
    note_adapter(Path(name))
    tokenizer = read_tokenizer(name, trust_remote_code=trust)
    if not tokenizer.is_fast:
        raise InputError(
            f"{name} has no fast tokenizer, which alone knows where its pieces are: "
            "choose an encoder with a tokenizer.json"
        )
    with one_sentence(name, "the encoder"):
        where: dict[str, Any] = {"trust_remote_code": trust, "use_safetensors": True, "output_loading_info": True}
        encoder, told = AutoModel.from_pretrained(name, dtype=torch.float32, **where, **without_adapter(name))
    missing = [key for key in told["missing_keys"] if complete or "pooler" not in key]
    if missing:
        raise InputError(f"{len(missing)} weights are not in {name} (the first: {missing[0]}): get the complete one")
    model = Tagger(encoder, settings.head, tokenizer.cls_token_id)
    length = min(settings.length, context_of(encoder.config) or settings.length)
    return Trained(model.to(target), tokenizer, replace(settings, length=length), name)
