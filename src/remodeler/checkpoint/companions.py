"""What lies beside the weights of a model: tokenizer, templates, generation config, code, licence.

A verb that does not change the tokenizer copies the source's own files, by an allow-list: every reader then cuts texts
as it did before. What transformers writes of a tokenizer in memory is taken where there are no such files, or where
they read back other than the tokenizer that the verb worked with.
"""

import logging
import shutil
import warnings
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from remodeler.checkpoint.compatibility import TOKENIZER_FILE, complete_tokenizer
from remodeler.checkpoint.load import Checkpoint, read_tokenizer
from remodeler.checkpoint.repositories import folder_of
from remodeler.errors import InputError
from remodeler.model.files.names import CHAT, CODE, COMPANIONS, GENERATION, LICENCES, PROCESSORS, TOKENIZER
from remodeler.runs.records import disk_errors, read_json

logger = logging.getLogger(__name__)

SAMPLES = (
    "The quick brown fox jumps over 13 lazy dogs, doesn't it?  Twice:\n\n\tyes; 3.14e-2 and 1,000,000!",
    "Grüße aus Köln — naïve façade, Привет, 你好世界, こんにちは, مرحبا, 👩‍🚀🚀 ½ ﬁn",
    "def f(x):\n    return {'a': [x ** 2, \"b\"]}  # TODO\r\n",
    " leading and trailing spaces   ",
)
"""Texts that two readings of a tokenizer are held against each other on."""


def copy_files(source: Path, folder: Path, patterns: Iterable[str]) -> list[str]:
    """Copy the files of a folder that a pattern names; their names."""
    found = list(matching(source, patterns))
    for file in found:
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return [str(file.relative_to(source)) for file in found]


def matching(source: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Files of a folder, each once, that a pattern names."""
    seen: set[Path] = set()
    for file in (file for pattern in patterns for file in sorted(source.glob(pattern)) if file.is_file()):
        if file not in seen:
            seen.add(file)
            yield file


def copy_companions(source: Path, folder: Path) -> list[str]:
    """Copy all that may lie beside a model's weights and config.

    Returns:
        Names of settings and vocabularies in the source that were left out: they may speak of something else, as an
        adapter or a record.
    """
    copied = copy_files(source, folder, COMPANIONS)
    asked = (file.name for file in sorted(source.iterdir()) if file.is_file() and file.suffix in (".json", ".txt"))
    return [name for name in asked if name not in copied and not fnmatch(name, "*.index.json")]


# Tokenizers -----------------------------------------------------------------------------------------------------------


def write_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: Path, source: str | Path | None, revision: str | None = None
) -> None:
    """Write a tokenizer so that it reads back as it is, in older readers too (see `checkpoint.compatibility`).

    Args:
        tokenizer: as the verb worked with it.
        folder: where the config is already: the class of a tokenizer depends on the model's.
        source: folder or hub id that it came from; None for one that was made.
        revision: of the hub id.

    Of ways to write it the first is taken that reads back the same; where none does, a note says so: transformers
    takes a class by the model's type, which may not be that of a tokenizer made in memory.
    """
    given = _files_of(source, revision)
    if given and given.resolve() == folder.resolve():
        return
    named = read_json(given / TOKENIZER_FILE).get("tokenizer_class") if given else None
    ways: list[partial[Any]] = [partial(_copy_files, given, folder)] if given else []
    ways += [partial(_save_tokenizer, tokenizer, folder, each) for each in (named, type(tokenizer).__name__)]
    for way in (*ways, partial(tokenizer.save_pretrained, folder)):
        way()
        if _reads_back(tokenizer, folder):
            return
        for file in matching(folder, TOKENIZER):
            file.unlink()
    tokenizer.save_pretrained(folder)
    logger.warning(
        f"the tokenizer in {folder} reads back otherwise than the one in memory: compare their ids before use"
    )


def _files_of(source: str | Path | None, revision: str | None) -> Path | None:
    """Where a tokenizer's own files lie; None where there are none, or only those of a slow tokenizer."""
    folder = folder_of(str(source), revision, TOKENIZER) if source else None
    return folder if folder and all((folder / name).exists() for name in (TOKENIZER_FILE, "tokenizer.json")) else None


def _copy_files(source: Path, folder: Path) -> None:
    own_code = (CODE,) if "auto_map" in read_json(source / TOKENIZER_FILE) else ()
    with disk_errors(folder):
        copy_files(source, folder, (*TOKENIZER, *own_code))
    complete_tokenizer(folder)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, named: str | None) -> None:
    tokenizer.save_pretrained(folder)
    complete_tokenizer(folder, named)


def _reads_back(tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool:
    """Whether a folder's tokenizer does what one in memory does: ids, texts, special tokens, template."""
    try:
        with warnings.catch_warnings():  # of a config whose class is not known here
            warnings.simplefilter("ignore", FutureWarning)
            again = read_tokenizer(str(folder), trust_remote_code=_own_code(tokenizer))
    except InputError:
        return False
    return behaviour(again) == behaviour(tokenizer)


def _own_code(tokenizer: PreTrainedTokenizerBase) -> bool:
    return type(tokenizer).__module__.startswith("transformers_modules.")


def behaviour(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    """What can be seen of a tokenizer from outside, to compare two."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    texts = (*SAMPLES, " ".join(added[:64]), "x".join(added[-64:]))
    ids = [tokenizer(text)["input_ids"] for text in texts]
    decoded = [tokenizer.decode(each) for each in ids]
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    return len(tokenizer), ids, decoded, special, tokenizer.chat_template


# Beside a pruned or trained model -------------------------------------------------------------------------------------


def write_companions(checkpoint: Checkpoint, folder: Path, code: bool) -> None:
    """What is the source's own: tokenizer, generation config, licence, what prepares images; code if it is needed."""
    processors = PROCESSORS if checkpoint.anatomy.family.wrapper else ()
    patterns = (GENERATION, *processors, *LICENCES, *((CODE,) if code else ()))
    source = folder_of(checkpoint.name, checkpoint.revision, (*patterns, *TOKENIZER))
    if code and source is None:
        raise InputError(f"the modelling code of {checkpoint.name} can't be found again: give its folder")
    with disk_errors(folder):
        copied = copy_files(source, folder, patterns) if source else []
    if checkpoint.model.can_generate() and GENERATION not in copied:
        checkpoint.model.generation_config.save_pretrained(folder)
    write_tokenizer(checkpoint.tokenizer, folder, checkpoint.name, checkpoint.revision)
    if processors and source:  # a processor's template is not in every tokenizer
        copy_files(source, folder, CHAT)
