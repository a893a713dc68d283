"""What lies beside the weights: what is copied is downloaded too, and nothing else is copied."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from remodeler.checkpoint import repositories
from remodeler.checkpoint.companions import copy_companions
from remodeler.checkpoint.repositories import BESIDE, download, folder_of

COPIED = (
    *("tokenizer.json", "tokenizer.model.v3", "qwen.tiktoken", "additional_chat_templates/tools.jinja", "tekken.json"),
    *("generation_config.json", "preprocessor_config.json", "1_Pooling/config.json", "modules.json"),
    *("LICENSE", "LICENCE.txt", "NOTICE", "USE_POLICY.md", "modeling_own.py"),
)
READ = ("config.json", "model.safetensors.index.json", "adapter_config.json", "own_vocabulary.txt", "ice_text.model")
OTHERS = ("model.safetensors", "pytorch_model.bin", "picture.png", "training_args.bin")


def filled(folder: Path) -> Path:
    for name in (*COPIED, *READ, *OTHERS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_only_what_may_lie_beside_a_model_is_copied(tmp_path: Path) -> None:
    source, target = filled(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    left_out = copy_companions(source, target)
    assert {file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file()} == set(COPIED)
    assert left_out == ["adapter_config.json", "config.json", "own_vocabulary.txt"]


def test_what_is_copied_or_read_is_downloaded_and_no_other_weights() -> None:
    taken = {name for name in (*COPIED, *READ, *OTHERS) if any(fnmatch(name, pattern) for pattern in BESIDE)}
    assert taken == {*COPIED, *READ}


def test_a_folder_stands_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repositories, "snapshot_download", None)
    assert folder_of(str(tmp_path), None, ("*.json",)) == download(str(tmp_path)) == tmp_path


def test_files_of_a_hub_id_are_looked_for_here_or_fetched_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **how: Any) -> str:
        asked.append(how)
        return f"cache/{name}"

    monkeypatch.setattr(repositories, "snapshot_download", snapshot)
    assert folder_of("org/name", "main") == folder_of("org/name", None, ("*.py",)) == Path("cache/org/name")
    here, fetched = asked
    assert (here["local_files_only"], here["allow_patterns"], here["revision"]) == (True, None, "main")
    assert (fetched["local_files_only"], fetched["allow_patterns"]) == (False, ["*.py"])


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline"), ValueError("no hub id")])
def test_without_a_network_or_a_name_there_is_no_folder(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(repositories, "snapshot_download", snapshot)
    assert folder_of("a model made in memory", None, ("*.py",)) is None
