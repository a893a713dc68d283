"""Save and load a tagger: an encoder checkpoint with its tokenizer, ``head.safetensors`` and ``tagger.json``."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from remodeler.auditing.tagger.config import SMALL_TAGGER, HeadConfig, PredictionRulesConfig
from remodeler.auditing.tagger.model import Tagger
from remodeler.auditing.tagger.rules import Rules
from remodeler.checkpoint.companions import write_tokenizer
from remodeler.checkpoint.compatibility import complete_config
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.library_errors import one_sentence
from remodeler.checkpoint.load import check_files, context_of, read_settings, read_tokenizer
from remodeler.checkpoint.quantised import refuse_quantised
from remodeler.checkpoint.repositories import note_adapter, without_adapter
from remodeler.errors import InputError
from remodeler.runs.records import read_json, write_json

SETTINGS_FILE, HEAD_FILE = "tagger.json", "head.safetensors"


@dataclass(frozen=True)
class TaggerSettings:
    """Settings of a tagger: the content of ``tagger.json``."""

    head: HeadConfig = field(default_factory=HeadConfig)
    rules: Rules = field(default_factory=Rules)
    length: int = 256
    """Tokens per window, special tokens included; fewer if the encoder takes fewer."""
    stride: int = 64
    """Tokens by which windows overlap."""


@dataclass(frozen=True)
class LoadedTagger:
    """A tagger ready for use."""

    model: Tagger
    tokenizer: Any
    settings: TaggerSettings
    name: str = ""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device


def new_tagger(
    encoder: str, settings: TaggerSettings, seed: int, device: str = "auto", trust: bool = False
) -> LoadedTagger:
    """An encoder with an untrained head; deterministic for a seed."""
    if (Path(encoder) / SETTINGS_FILE).exists():
        raise InputError(f"{encoder} is a tagger already: give an encoder, such as the one that it was made of")
    torch.manual_seed(seed)  # before the encoder, whose pooler is random if the checkpoint has none
    return _build(encoder, settings, device, trust, complete=False)


def tagger_folder(source: str | Path) -> Path:
    """Folder of a tagger; that of the package for the bundled one."""
    return Path(__file__).parent / SMALL_TAGGER if str(source) == SMALL_TAGGER else Path(source)


def load_tagger(folder: str | Path, device: str = "auto", trust: bool = False) -> LoadedTagger:
    """Load a tagger from its folder, in eval mode.

    Raises:
        InputError: if the folder is not a tagger, or incomplete.
    """
    folder = tagger_folder(folder)
    if not (folder / SETTINGS_FILE).exists():
        raise InputError(f"{folder} holds no {SETTINGS_FILE}: give a folder that `remodel audit train` made")
    found = _build(str(folder), _settings(folder), device, trust, complete=True)
    with one_sentence(str(folder), "the head"):
        weights = load_file(folder / HEAD_FILE, device=str(found.device))
        if weights.keys() != found.model.head_parameters().keys():
            raise SafetensorError(f"{HEAD_FILE} does not fit {SETTINGS_FILE}")
        found.model.load_state_dict(weights, strict=False)
    found.model.eval()
    return found


def save_tagger(trained: LoadedTagger, folder: Path) -> None:
    """Write a tagger into a folder; stock transformers can read the encoder and the tokenizer."""
    with one_sentence(str(folder), "the tagger"):
        trained.model.encoder.save_pretrained(folder)
        complete_config(folder)
        write_tokenizer(trained.tokenizer, folder, tagger_folder(trained.name))
    head = {name: value.detach().cpu().contiguous() for name, value in trained.model.head_parameters().items()}
    save_file(head, folder / HEAD_FILE)
    write_json(folder / SETTINGS_FILE, asdict(trained.settings))


def _settings(folder: Path) -> TaggerSettings:
    value = read_json(folder / SETTINGS_FILE)
    try:
        PredictionRulesConfig(**value["rules"])  # refuses values that are out of range
        return TaggerSettings(HeadConfig(**value["head"]), Rules(**value["rules"]), value["length"], value["stride"])
    except (TypeError, KeyError) as error:
        known = ", ".join(each.name for each in fields(TaggerSettings))
        raise InputError(f"{folder / SETTINGS_FILE} is not a tagger's ({error}): it needs {known}") from None


def _build(name: str, settings: TaggerSettings, device: str, trust: bool, complete: bool) -> LoadedTagger:
    """Load encoder and tokenizer from a folder or the hub, and put a random head on them."""
    target = pick_device(device)
    kind = read_settings(name, None)
    if kind.get("is_encoder_decoder"):
        raise InputError(f"{name} is an encoder-decoder model: give an encoder, e.g. BERT, ALBERT, RoBERTa or XLNet")
    refuse_quantised(name, kind)
    check_files(Path(name))
    note_adapter(Path(name))
    tokenizer = read_tokenizer(name, trust_remote_code=trust)
    if not tokenizer.is_fast:
        raise InputError(f"{name} has no fast tokenizer, which offsets need: choose an encoder with a tokenizer.json")
    with one_sentence(name, "the encoder"):
        where: dict[str, Any] = {"trust_remote_code": trust, "use_safetensors": True, "output_loading_info": True}
        encoder, info = AutoModel.from_pretrained(name, dtype=torch.float32, **where, **without_adapter(name))
    missing = [key for key in info["missing_keys"] if complete or "pooler" not in key]
    if missing:
        raise InputError(
            f"{len(missing)} weights are missing in {name} (the first: {missing[0]}): get the complete one"
        )
    model = Tagger(encoder, settings.head, tokenizer.cls_token_id)
    length = min(settings.length, context_of(encoder.config) or settings.length)
    return LoadedTagger(model.to(target), tokenizer, replace(settings, length=length), name)
