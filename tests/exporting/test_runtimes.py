"""vLLM and mlx-lm, where an environment has them: they load what we write, and say what torch says.

    REMODELER_VLLM=ENV/bin/python REMODELER_MLX=ENV/bin/python python -m pytest tests/test_runtimes.py

vLLM's environment needs this package too, whose entry point tells vLLM about packed models.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import invoke
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError
from remodeler.exporting.decilm import runtimes as runtime_check
from remodeler.exporting.decilm.runtimes import check, compare, runtimes
from remodeler.exporting.decilm.write import write_nemotron
from remodeler.exporting.vllm_plugin import BACKEND, EXPERTS, packed_names
from remodeler.runs.units import Block
from tiny import tiny_checkpoint, tiny_model
from tiny_tokenizers import byte_level

VLLM, MLX = (os.environ.get(f"REMODELER_{name}", "") for name in ("VLLM", "MLX"))
SIZE = 320
HEADS: dict[str, Any] = {"vocab_size": SIZE, "num_attention_heads": 4, "num_key_value_heads": 2}
# vLLM's attention on a CPU wants heads of a multiple of 32.
WIDE: dict[str, Any] = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256}
PATTERNS = {
    "whole": [],
    "inside": ["attention.1", "mlp.2"],
    "both ends": ["attention.0", "mlp.3", "mlp.1"],
}


def pruned(kind: str, names: list[str], folder: Path, **options: Any) -> Checkpoint:
    """A tiny pruned model as the verbs write it, with random biases and norms."""
    tiny_model(kind, 3, **(HEADS | options)).save_pretrained(folder / "source")
    byte_level(SIZE - 8).save_pretrained(folder / "source")
    source = load(folder / "source", dtype="float32", device="cpu")
    (folder / "pruned").mkdir()
    return save_pruned(source, [Block.parse(name) for name in names], folder / "pruned").checkpoint


# vLLM -----------------------------------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "mixtral"])
@pytest.mark.parametrize(
    ("pattern", "compiled"),
    [("inside", False), ("both ends", False), ("both ends", True)],
    ids=["inside", "both ends", "compiled"],
)
def test_vllm_serves_the_packed_form(kind: str, pattern: str, compiled: bool, tmp_path: Path) -> None:
    """Without remote code; every attention that is left has its cache, so decoding is right too."""
    model = pruned(kind, PATTERNS[pattern], tmp_path, **WIDE)
    assert check(model, tmp_path / "pruned", "vllm", VLLM, compiled).difference < 1e-4


@pytest.mark.vllm
@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama-tied"])
@pytest.mark.parametrize("pattern", ["inside", "both ends"])
def test_vllms_own_class_reads_decilms_layout(kind: str, pattern: str, tmp_path: Path) -> None:
    model = pruned(kind, PATTERNS[pattern], tmp_path, **WIDE)
    (tmp_path / "deci").mkdir()
    write_nemotron(model, tmp_path / "deci")
    assert check(model, tmp_path / "deci", "vllm", VLLM, trust_remote_code=True).difference < 1e-4


# mlx-lm ---------------------------------------------------------------------------------------------------------------


@pytest.mark.mlx
@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama-tied"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_mlx_reads_decilms_layout(kind: str, pattern: str, tmp_path: Path) -> None:
    model = pruned(kind, PATTERNS[pattern], tmp_path)
    (tmp_path / "deci").mkdir()
    write_nemotron(model, tmp_path / "deci")
    assert check(model, tmp_path / "deci", "mlx_lm", MLX).difference < 1e-4


@pytest.mark.mlx
def test_the_command_asks_the_runtime_that_is_named(tmp_path: Path) -> None:
    pruned("qwen2", PATTERNS["inside"], tmp_path)
    command = ["export", str(tmp_path / "pruned"), "--to", "nemotron", "--out", str(tmp_path / "deci")]
    result = invoke([*command, "--runtime", MLX])
    assert result.exit_code == 0, result.output
    (told,) = json.loads((tmp_path / "deci" / "record.json").read_text())["results"]["runtimes"]
    assert told["runtime"].startswith("mlx_lm ")
    assert told["difference"] < 1e-4


# What is asked --------------------------------------------------------------------------------------------------------


def answer_of(model: Checkpoint, prompts: list[list[int]], steps: int) -> dict[str, Any]:
    """What a runtime that computes as torch does would answer."""
    nats, chosen = [], []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(steps):
            ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
        said = model.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        nats.append([float(said[place, token]) for place, token in enumerate(prompt[1:])])
        chosen.append(ids[len(prompt) :])
    return {"logprobs": nats, "chosen": chosen}


@torch.no_grad()
def test_a_runtime_that_computes_the_same_is_believed_and_another_is_not() -> None:
    model, other = tiny_checkpoint("llama"), tiny_checkpoint("llama", 1)
    prompts = [[5, 9, 3, 44], [8, 8]]
    told = compare(model, prompts, answer_of(model, prompts, 8), "this one 1.0")
    assert told.difference < 1e-6
    assert (told.tokens, told.same) == (16, 16)
    assert compare(model, prompts, answer_of(other, prompts, 8), "another").difference > 0.01


@torch.no_grad()
def test_a_runtime_that_goes_wrong_only_behind_the_prompt_is_not_believed() -> None:
    """As one does whose cache is wrong."""
    model = tiny_checkpoint("llama")
    prompts = [[5, 9, 3, 44]]
    answer = answer_of(model, prompts, 8)
    answer["chosen"][0][4] = (answer["chosen"][0][4] + 1) % 300
    told = compare(model, prompts, answer, "this one")
    assert told.difference > 0.001
    assert told.same < told.tokens


def test_a_python_without_a_runtime_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    command = ["export", "no-such-model", "--to", "nemotron", "--out", str(tmp_path / "out")]
    for python, words in (("/no/such/python", "does not run"), ("/bin/true", "neither vllm nor mlx_lm")):
        ended = invoke([*command, "--runtime", python])
        assert ended.exit_code == 2
        assert words in ended.stderr
    assert runtimes() == runtimes(sys.executable)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_does_not_load_a_folder_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "asks.py"
    script.write_text("raise ValueError('no layer 7')")
    monkeypatch.setitem(runtime_check.SCRIPTS, "vllm", str(script))
    with pytest.raises(InputError, match="no layer 7"):
        check(tiny_checkpoint("llama"), tmp_path, "vllm")


def test_what_a_process_ends_with() -> None:
    errors = "Traceback:\n  File x\n[rank0]: ValueError: no parameter named 'a'\nLoading:  0% Completed\n\n"
    assert runtime_check.last_words(errors) == "[rank0]: ValueError: no parameter named 'a'"
    assert runtime_check.last_words("killed\n") == "killed"
    assert runtime_check.last_words("") == "it said nothing"


def test_experts_have_a_class_of_their_own_in_vllm() -> None:
    names = packed_names()
    experts = {name for name, backend in names.items() if backend == EXPERTS}
    assert {"PackedMixtralForCausalLM", "PackedQwen3MoeForCausalLM", "PackedDeepseekV3ForCausalLM"} <= experts
    assert names["PackedLlamaForCausalLM"] == BACKEND


def test_a_folder_of_its_name_is_no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in runtime_check.SCRIPTS:
        (tmp_path / name).mkdir()
    found = runtimes()
    monkeypatch.chdir(tmp_path)
    assert runtimes() == found


def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "asks.py"
    script.write_text("import sys, pathlib\nraise ValueError(pathlib.Path(sys.argv[1], 'here').read_text())")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "here").write_text("it was found")
    monkeypatch.setitem(runtime_check.SCRIPTS, "vllm", str(script))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="it was found"):
        check(tiny_checkpoint("llama"), Path("model"), "vllm", os.path.relpath(sys.executable))
