"""The command as a user sees it: from a folder to a smaller one that loads, and every mistake one sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from commands import SMALL, run
from forks import COMMAND, Process, python
from remodeler.runs.records import load_record, read_lines
from tiny import TEXT


def same_tree(first: Path, second: Path) -> list[str]:
    """Files of two results that differ in bytes; records, reports and cards tell paths and seconds and are left out."""
    names = {path.name for folder in (first, second) for path in folder.iterdir()}
    told = {"record.json", "report.html", "README.md", "removals.jsonl"}
    return [name for name in sorted(names - told) if (first / name).read_bytes() != (second / name).read_bytes()]


def test_prune_writes_a_folder_that_loads_with_everything_in_it(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    assert run(monkeypatch, "prune", model, "--out", out, "--remove", 2, "--texts", texts, *SMALL) == 0
    shown = capsys.readouterr().out
    assert "Calibration perplexity" in shown
    assert "Held-out perplexity" in shown
    files = {path.name for path in out.iterdir()}
    assert files >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "chat_template.jinja",
    }
    assert files >= {"removals.jsonl", "record.json", "report.html", "README.md"}
    assert not (tmp_path / "small.partial").exists()
    record = load_record(out)
    assert record.results["check"]["one_pass"] == 0.0
    assert len(record.results["removed"]) == 2
    card = (out / "README.md").read_text()
    assert "base_model: tiny" in card
    assert "license: mit" in card
    assert all(block in card for block in record.results["removed"])
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert sum(p.numel() for p in loaded.parameters()) == record.results["pruned"]["parameters"]


def test_packed_folder_loads_without_this_package(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh Python in which remodeler can't be imported, from the modelling file beside the weights."""
    out = tmp_path / "packed"
    given = ["--remove", 1, "--unit", "attention", "--texts", texts, *SMALL]
    assert run(monkeypatch, "prune", model, "--out", out, *given) == 0
    code = (
        "import sys; sys.modules['remodeler'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "m.save_pretrained(sys.argv[2])\n"
        "AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])\n"
        "again = AutoModelForCausalLM.from_pretrained(sys.argv[2], trust_remote_code=True)\n"
        "import torch; ids = torch.arange(3, 9)[None]\n"
        "assert torch.equal(m(ids).logits, again(ids).logits); print(type(again).__name__)"
    )
    command = [sys.executable, "-c", code, str(out), str(tmp_path / "again")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "PackedLlamaForCausalLM", done.stderr


def test_cut_equals_a_search_of_that_size(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--texts", texts, *SMALL]
    assert run(monkeypatch, "prune", model, "--out", tmp_path / "four", "--remove", 4, *given) == 0
    assert run(monkeypatch, "prune", model, "--out", tmp_path / "two", "--remove", 2, *given) == 0
    log = tmp_path / "four" / "removals.jsonl"
    assert run(monkeypatch, "cut", log, model, "--remove", 2, "--out", tmp_path / "cut", "--device", "cpu") == 0
    assert same_tree(tmp_path / "two", tmp_path / "cut") == []
    old, new = load_record(tmp_path / "two").results, load_record(tmp_path / "cut").results
    assert old["pruned"]["heldout_perplexity"] == new["pruned"]["heldout_perplexity"]


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(model: Path, texts: Path, tmp_path: Path) -> None:
    def start(out: Path) -> Process:
        words = ["prune", model, "--out", out, "--remove", 6, "--texts", texts, "--samples", 8, "--length", 48]
        return python(COMMAND, *words, "--device", "cpu", "--batch-size", 2)

    assert start(tmp_path / "whole").wait() == 0
    log = tmp_path / "killed.partial" / "removals.jsonl"
    process = start(tmp_path / "killed")
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    assert start(tmp_path / "killed").wait() == 0
    assert same_tree(tmp_path / "whole", tmp_path / "killed") == []


def test_a_finished_search_goes_further_from_its_log(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["prune", model, "--texts", texts, *SMALL]
    assert run(monkeypatch, *given, "--out", tmp_path / "two", "--remove", 2) == 0
    assert run(monkeypatch, *given, "--out", tmp_path / "four", "--remove", 4) == 0
    log = tmp_path / "two" / "removals.jsonl"
    assert run(monkeypatch, *given, "--out", tmp_path / "on", "--remove", 4, "--from", log) == 0
    assert same_tree(tmp_path / "four", tmp_path / "on") == []
    on, four = (read_lines(tmp_path / name / "removals.jsonl") for name in ("on", "four"))
    assert [line["perplexity"] for line in on] == [line["perplexity"] for line in four]


def test_a_log_of_another_search_is_no_start(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it leaves nothing behind that would stand in the way of the right one."""
    given = ["prune", model, "--texts", texts, *SMALL]
    assert run(monkeypatch, *given, "--out", tmp_path / "mlps", "--remove", 1, "--unit", "mlp") == 0
    log = tmp_path / "mlps" / "removals.jsonl"
    code = run(monkeypatch, *given, "--out", tmp_path / "on", "--remove", 2, "--from", log)
    assert_one_sentence(code, capsys, "another options (unit was 'mlp', is 'block')")
    assert not list(tmp_path.glob("on*"))


def test_cut_needs_neither_the_texts_nor_the_dtype_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(f"{i} {TEXT}" for i in range(24)))
    out = tmp_path / "half"
    given = ["--texts", texts, *SMALL, "--dtype", "bfloat16"]
    assert run(monkeypatch, "prune", model, "--out", out, "--remove", 2, *given) == 0
    texts.unlink()
    assert run(monkeypatch, "cut", out, model, "--remove", 1, "--out", tmp_path / "cut", "--device", "cpu") == 0
    assert "held-out perplexity is left out" in capsys.readouterr().err
    assert load_record(tmp_path / "cut").results["removed"] == load_record(out).results["removed"][:1]


@pytest.mark.parametrize("spoil", ["other block", "no options", "not a log"])
def test_logs_that_can_not_be_cut_end_in_one_sentence(
    spoil: str,
    model: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    assert run(monkeypatch, "prune", model, "--out", out, "--remove", 1, "--texts", texts, *SMALL) == 0
    lines = read_lines(out / "removals.jsonl")
    if spoil == "other block":
        lines[1]["removed"] = ["mlp.77"]
    if spoil == "no options":
        del lines[0]["options"]
    if spoil == "not a log":
        lines = [{"text": "hello"}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    code = run(monkeypatch, "cut", log, model, "--remove", 1, "--out", tmp_path / "cut", "--device", "cpu")
    assert_one_sentence(code, capsys, str(log))
    assert not list(tmp_path.glob("cut*"))


def test_dry_run_writes_nothing(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "prune", model, "--out", tmp_path / "no", "--texts", texts, *SMALL, "--dry-run") == 0
    assert "8 candidates; to remove 25% of the parameters takes about" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_evaluate_puts_two_models_side_by_side(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--texts", texts, "--length", 16, "--device", "cpu", "--out", tmp_path / "told"]
    assert run(monkeypatch, "evaluate", model, "--against", model, *given) == 0
    first, second = load_record(tmp_path / "told").results["checkpoints"]
    assert first["perplexity"] == second["perplexity"]
    assert "Bits per byte" in capsys.readouterr().out
    assert (tmp_path / "told" / "report.html").exists()


# Mistakes -------------------------------------------------------------------------------------------------------------


def spoilt(model: Path, folder: Path | None, **config: object) -> Path:
    """A copy of the model with other config entries; without a folder, the model itself."""
    folder = model if folder is None else Path(shutil.copytree(model, folder))
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def written(model: Path, folder: Path, name: str, text: str) -> Path:
    """A copy of the model with one file of other content."""
    shutil.copytree(model, folder)
    (folder / name).write_text(text)
    return folder


def small_vocabulary(model: Path, folder: Path) -> Path:
    """A copy of the model whose embedding has 200 rows; its tokenizer keeps 300 tokens."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    cut = {name: value[:200].clone() if value.shape[0] == 300 else value for name, value in tensors.items()}
    save_file(cut, folder / "model.safetensors", {"format": "pt"})
    return folder


def without_shard(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = dict.fromkeys(tensors, "model-00001-of-00002.safetensors") | {
        "lm_head.weight": "model-00002-of-00002.safetensors"
    }
    save_file(tensors, folder / "model-00001-of-00002.safetensors", {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def broken_index(model: Path, folder: Path) -> Path:
    (written(model, folder, "model.safetensors.index.json", "{") / "model.safetensors").unlink()
    return folder


def without_weight(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def not_finite(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("inf"))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


MODELS = {
    "unknown type": (lambda m, f: spoilt(m, f, model_type="rwkv"), "'rwkv' is not known here, "),
    "config is a list": (lambda m, f: written(m, f, "config.json", "[1]"), "holds a list, an object"),
    "broken index": (broken_index, "is not valid JSON"),
    "large tokenizer": (lambda m, f: spoilt(small_vocabulary(m, f), None, vocab_size=200), "its model knows 200"),
    "other shape": (lambda m, f: spoilt(m, f, vocab_size=310), "has 300 rows in the files and 310 in config.json"),
    "missing shard": (
        without_shard,
        "model-00002-of-00002.safetensors named in model.safetensors.index.json is missing",
    ),
    "missing weight": (without_weight, "1 weights that the model needs are not in"),
    "infinite weight": (not_finite, "the loss of the model is nan"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_that_can_not_work_end_in_one_sentence(
    case: str,
    model: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, words = MODELS[case]
    code = run(monkeypatch, "prune", make(model, tmp_path / "m"), "--out", tmp_path / "out", "--texts", texts, *SMALL)
    assert_one_sentence(code, capsys, words)
    assert not (tmp_path / "out").exists()


def assert_one_sentence(code: int, capsys: pytest.CaptureFixture[str], words: str) -> None:
    told = capsys.readouterr().err
    said = [line for line in told.splitlines() if line.startswith("remodel: ")]
    assert code == 2, told
    assert len(said) == 1, told
    assert words in said[0]
    assert "Traceback" not in told


def test_texts_too_short_for_a_window_say_what_to_do(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("too short")
    code = run(
        monkeypatch, "prune", model, "--out", tmp_path / "o", "--texts", tmp_path / "short.txt", "--device", "cpu"
    )
    assert_one_sentence(code, capsys, "--length")


def test_a_full_disk_ends_in_one_sentence_and_loses_nothing(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log can't grow: what is on the disk stays, and the same command goes on once there is room."""
    import errno

    import remodeler.runs.records

    given = ["prune", model, "--out", tmp_path / "o", "--remove", 3, "--texts", texts, *SMALL]
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(remodeler.runs.records.os, "fsync", full)
    code = run(monkeypatch, *given)
    assert_one_sentence(code, capsys, "no space left on the disk")
    monkeypatch.setattr(remodeler.runs.records.os, "fsync", real)
    assert run(monkeypatch, *given) == 0


def test_help_is_instant_and_needs_no_torch() -> None:
    code = "import sys; import remodeler.cli.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
