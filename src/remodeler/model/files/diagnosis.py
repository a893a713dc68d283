"""What is wrong with a folder that is given as a model, and what to do: tables of tests, each with its sentence.

Looked at are the names of files, and a JSON file where there is one; no weights are read. A test returns what it
found, which its sentence names, or "".
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from remodeler.errors import InputError
from remodeler.model.files.file_checks import (
    json_object,
    refuse_file,
    refuse_no_file,
    refuse_other_than_text,
    refuse_unreadable,
)
from remodeler.model.files.names import CODE, GENERATION, LICENCES

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
ADAPTERS = ("adapter_model*.safetensors", "adapter_model*.bin")
TRAINING = ("optimizer*", "scheduler.pt", "training_args.bin", "rng_state*", "scaler.pt", "random_states_*")
"""Files that training leaves beside weights and that hold none."""
NOT_WEIGHTS = (*TRAINING, *ADAPTERS, "*.incomplete")


READ_BY_NAME = (
    *(CONFIG, GENERATION, ADAPTER_CONFIG, "model.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "chat_template.jinja", "chat_template.json"),
)
"""What transformers reads of a folder wherever it is there."""
COPIED = ("README.md", *LICENCES, CODE)
"""What results carry on from a folder, besides."""


@dataclass(frozen=True)
class Listing:
    """A folder by what lies in it."""

    folder: Path

    @cached_property
    def files(self) -> list[str]:
        """Names of its files, sorted."""
        try:
            return sorted(path.name for path in self.folder.iterdir() if path.is_file())
        except OSError as error:
            raise InputError(f"{self.folder} can't be read ({error.strerror}): check the path") from None

    @cached_property
    def folders(self) -> list[str]:
        """Names of its folders, sorted."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def file(self, *patterns: str) -> str:
        """The first file whose name fits, tried pattern by pattern."""
        return _first(self.files, patterns)

    def inside(self, *patterns: str) -> str:
        """The first folder whose name fits."""
        return _first(self.folders, patterns)

    @cached_property
    def architecture(self) -> str:
        """The class that config.json names."""
        try:
            named = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))["architectures"][0]
        except (OSError, ValueError, LookupError, TypeError):
            return "AutoModelForCausalLM"
        return str(named)


Row = tuple[Callable[[Listing], str], str]
"""What is looked for, and the sentence where it is found: ``{folder}``, ``{found}`` and ``{architecture}``."""


def _first(names: Sequence[str], patterns: Sequence[str]) -> str:
    return next((name for pattern in patterns for name in names if fnmatch(name, pattern)), "")


def _snapshot(seen: Listing) -> str:
    """The snapshot of a folder of the hub's cache: the one that ``refs/main`` names, or the last."""
    found = sorted((seen.folder / "snapshots").glob("*/"))
    main = seen.folder / "refs" / "main"
    named = seen.folder / "snapshots" / main.read_text(encoding="utf-8").strip() if main.is_file() else None
    return str(named if named in found else found[-1]) if found else ""


def _last_checkpoint(seen: Listing) -> str:
    numbers = [int(name.partition("-")[2]) for name in seen.folders if re.fullmatch(r"checkpoint-\d+", name)]
    return str(seen.folder / f"checkpoint-{max(numbers)}") if numbers else ""


def _model_inside(seen: Listing) -> str:
    return next((str(seen.folder / name) for name in seen.folders if (seen.folder / name / CONFIG).is_file()), "")


def _torch_weights(seen: Listing) -> str:
    left = [name for name in seen.files if not any(fnmatch(name, pattern) for pattern in NOT_WEIGHTS)]
    return _first(left, ("pytorch_model*.bin*", "*.bin", "*.pth", "*.pt", "*.ckpt"))


def _only_training(seen: Listing) -> str:
    return seen.file(*TRAINING)


def _adapter(seen: Listing) -> str:
    return seen.file(ADAPTER_CONFIG, *ADAPTERS) and _adapter_kind(seen.folder)


def _adapter_kind(folder: Path) -> str:
    """What an adapter says of itself, and of what it belongs on."""
    try:
        told = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return f"an adapter ({told.get('peft_type') or 'PEFT'} for {told.get('base_model_name_or_path') or 'its base'})"
    except (OSError, ValueError, AttributeError):
        return "an adapter"


MERGE_ADAPTER = "merge it into its base first (peft: merge_and_unload(), then save_pretrained), and give that folder"
CONVERT = 'transformers.{architecture}.from_pretrained("{folder}").save_pretrained("NEW"), with its tokenizer'

FOLDERS: tuple[Row, ...] = (
    (_snapshot, "{folder} is a folder of the hub's cache: give the snapshot in it, {found}"),
    (lambda seen: seen.inside("models--*"), "{folder} is the hub's cache: give {folder}/{found}/snapshots/HASH"),
    (_adapter, "{folder} holds {found} and no model: " + MERGE_ADAPTER),
    (
        lambda seen: seen.file("model_index.json"),
        "{folder} holds a pipeline of diffusers ({found}), which is no language model: give a model of text",
    ),
    (
        lambda seen: seen.inside("pytorch_model_fsdp_*", "distcp*") or seen.file("*.distcp", ".metadata"),
        "{folder} holds shards of FSDP ({found}): put them together first, with `accelerate merge-weights`",
    ),
    (
        lambda seen: (
            seen.file("zero_to_fp32.py", "*_optim_states.pt", "*_model_states.pt") or seen.inside("global_step*")
        ),
        "{folder} holds shards of DeepSpeed ({found}): put them together first, with "
        "`python zero_to_fp32.py . NEW --safe_serialization` in that folder",
    ),
    (
        lambda seen: seen.file("shard-*-model-*-of-*.safetensors"),
        "{folder} holds the shards of a distributed run ({found}): load it with transformers and save it as one model",
    ),
    (
        _last_checkpoint,
        "{folder} holds checkpoints of a training and no finished model: give one of them, the last is {found}",
    ),
)
"""Where nothing counts as the weights, or there is no config."""

CONFIGLESS: tuple[Row, ...] = (
    (
        lambda seen: seen.file("*.gguf"),
        "{folder} holds a GGUF file ({found}) and no model of safetensors: give the file, {folder}/{found}",
    ),
    (
        lambda seen: seen.file("params.json") and seen.file("consolidated*"),
        "{folder} is in the layout of the model's makers ({found}): convert it first, with the script of its family in "
        "transformers, or get the model in transformers' layout",
    ),
    (lambda seen: seen.file("*.onnx", "*.pte", "openvino_model.*"), "{folder} holds a program ({found}): give a model"),
    (_model_inside, "{folder} has no config.json, but a folder in it has: give {found}"),
    (
        lambda seen: seen.file("*.safetensors", "pytorch_model*"),
        "{folder} has weights ({found}) and no config.json: get that file from where the weights are from",
    ),
    (_only_training, "{folder} holds what a training left ({found}) and no model: give the folder of the model"),
    (
        lambda seen: "partial" if seen.folder.suffix == ".partial" else "",
        "{folder} is not finished: run the command that began it again, and give what it makes",
    ),
    (lambda seen: "" if seen.files or seen.folders else "nothing", "{folder} is empty: give a model's folder"),
)
"""Where there is no config."""

WEIGHTLESS: tuple[Row, ...] = (
    (
        lambda seen: seen.file("model-*-of-*.safetensors"),
        "{folder} has shards ({found}) and no model.safetensors.index.json, which says what is in them: get that file",
    ),
    (
        lambda seen: seen.file("model.*.safetensors", "model.safetensors.index.*.json"),
        "{folder} has a variant of the weights ({found}) and no model.safetensors: give a copy that has that name, "
        "or load it with variant= in transformers and save it",
    ),
    (
        _torch_weights,
        "{folder} has its weights as PyTorch's pickles ({found}), which are not read: convert them to safetensors, "
        + CONVERT,
    ),
    (
        lambda seen: seen.file("tf_model*", "flax_model*"),
        "{folder} has weights of another framework ({found}): convert them to safetensors with transformers 4",
    ),
    (
        lambda seen: seen.file("consolidated*"),
        "{folder} has weights in the layout of the model's makers only ({found}): get model.safetensors, too",
    ),
    (
        lambda seen: seen.file("*.gguf"),
        "{folder} has its weights as GGUF only ({found}): give the file, {folder}/{found}",
    ),
    (
        lambda seen: seen.file("*.safetensors"),
        "{folder} has {found} and neither model.safetensors nor its index, which are what counts as a model's weights: "
        "give the file that name if it holds the model",
    ),
    (_only_training, "{folder} holds what a training left ({found}) and no weights: get them, too"),
)
"""Where nothing counts as the weights and there is a config."""


def explain(folder: Path, rows: Sequence[Row]) -> str:
    """The sentence of the first row that fits; "" where none does."""
    seen = Listing(folder)
    for test, sentence in rows:
        if found := test(seen):
            return sentence.format(folder=folder, found=found, architecture=seen.architecture)
    return ""


def refuse_folder(folder: Path) -> None:
    """Refuse a folder without a config that can be read, or with a model and an adapter for it.

    Raises:
        InputError: what it is instead, and what to do.
    """
    for name in READ_BY_NAME:
        refuse_no_file(folder / name)
    for name in Listing(folder).files:
        if any(fnmatch(name, pattern) for pattern in (*READ_BY_NAME, *COPIED)):
            refuse_unreadable(folder / name)
    if not (folder / CONFIG).is_file():
        raise InputError(
            explain(folder, (*FOLDERS, *CONFIGLESS)) or f"{folder} has no config.json: give a model's folder"
        )
    refuse_file(folder / CONFIG)


def refuse_weightless(folder: Path) -> None:
    """Say why nothing in a folder counts as its weights."""
    raise InputError(
        explain(folder, (*FOLDERS, *WEIGHTLESS))
        or f"{folder} has no weights, neither model.safetensors nor its index: get the complete checkpoint"
    )


def refuse_adapter(folder: Path) -> None:
    """Refuse a whole model with an adapter beside it: transformers adds it where peft is installed, other tools don't.

    Raises:
        InputError: when the adapter has weights; its config alone adds nothing.
    """
    seen = Listing(folder)
    if seen.file(ADAPTER_CONFIG) and (weights := seen.file(*ADAPTERS)):
        raise InputError(
            f"{folder} holds a model and {_adapter_kind(folder)} beside it ({weights}), and nothing says whether it is "
            "in the model already: take both files of the adapter away, or merge it first (peft: merge_and_unload())"
        )


# Tokenizers -----------------------------------------------------------------------------------------------------------

FAST, PIECES = "tokenizer.json", ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "*.spm")
VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "tokenizer*.json", "*.tiktoken", "tekken.json", "*.vocab")


def tokenizer_fault(folder: Path) -> str:
    """Why the tokenizer of a folder may not load, and what to do; "" where nothing is seen."""
    seen = Listing(folder)
    if present := seen.file(FAST, *PIECES, "tokenizer_config.json"):
        refuse_file(folder / present)
    for name in (each for each in READ_BY_NAME if "token" in each and each.endswith(".json") and each in seen.files):
        json_object(folder / name)
    for template in (*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")):
        refuse_other_than_text(template)
    packages = [each for each, module in (("sentencepiece",) * 2, ("protobuf", "google.protobuf")) if not _has(module)]
    if (pieces := seen.file(*PIECES)) and not seen.file(FAST) and packages:
        return f"it has {pieces} and no {FAST}, which needs more packages: pip install {' '.join(packages)}"
    if not seen.file(FAST, *PIECES, *VOCABULARIES[:3], *VOCABULARIES[4:]):
        return f"the folder has no tokenizer: copy {FAST} and tokenizer_config.json from the model that it was made of"
    return ""


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
