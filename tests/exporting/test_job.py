"""Exports: files of other runtimes say what the model says, stand-ins and all; and what can't be said is refused."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

import llama_cpp_reference as reference
from commands import invoke
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError
from remodeler.exporting import job
from remodeler.exporting.config import ExportConfig
from remodeler.exporting.decilm.check import check
from remodeler.exporting.decilm.write import config_of, write_nemotron
from remodeler.exporting.gguf import job as gguf_job
from remodeler.exporting.gguf.job import TEXTS, export_gguf, prune_gguf
from remodeler.exporting.gguf.model import rope_factors
from remodeler.exporting.gguf.tokens import token_keys
from remodeler.exporting.job import export
from remodeler.exporting.removals import gone_after, read_removals
from remodeler.model.gguf.check import logits
from remodeler.model.gguf.plan import Sizes, plan_layers
from remodeler.model.gguf.tensors import order
from remodeler.model.pairing import Row, left, rows_of
from remodeler.runs.records import Record, load_record, save_record
from remodeler.runs.units import Block
from tiny import tiny_model
from tiny_tokenizers import byte_level
from tiny_tokenizers import pieces as sentence_pieces

TOKENS = [5, 9, 3, 44, 17, 100, 8, 8, 61]
LAYERS, SIZE = 4, 320
PATTERNS: dict[str, list[str]] = {
    "whole": [],
    "attention": ["attention.1", "attention.3"],
    "mlp": ["mlp.1"],
    "layer": ["attention.2", "mlp.2"],
    "half a layer along": ["mlp.1", "attention.2"],
    "first attention": ["attention.0"],
    "last mlp": ["mlp.3"],
    "first and last": ["attention.0", "mlp.3", "mlp.1"],
    "many": ["attention.0", "attention.1", "mlp.2", "attention.3"],
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "llama-tied": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": True},
}


@pytest.fixture(scope="module", params=SHAPES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model of each shape, whose biases and norms are not those of a new one."""
    return made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return made("llama", tmp_path_factory.mktemp("llama"))


def made(kind: str, folder: Path, **options: Any) -> Checkpoint:
    model = tiny_model(kind, 3, vocab_size=SIZE, num_hidden_layers=LAYERS, **(SHAPES[kind] | options))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                value.add_(torch.randn_like(value) * 0.2)
    model.save_pretrained(folder)
    byte_level(SIZE - 8).save_pretrained(folder)  # AutoTokenizer may add a token of its own
    return load(folder, dtype="float32", device="cpu")


def pruned(source: Checkpoint, names: list[str], folder: Path) -> Checkpoint:
    """A pruned model as the verbs write it."""
    folder.mkdir()
    return save_pruned(source, [Block.parse(name) for name in names], folder).checkpoint


def removal_log(path: Path, names: list[str]) -> Path:
    lines = [{"step": 0}, *({"step": step, "removed": [name]} for step, name in enumerate(names, 1))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def said(checkpoint: Checkpoint) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = checkpoint.model(torch.tensor([TOKENS])).logits[0].numpy()
    return found


# Rows -----------------------------------------------------------------------------------------------------------------


def test_where_deci_needs_a_stand_in() -> None:
    sizes = Sizes("llama", dict.fromkeys(range(4), 8), dict.fromkeys(range(4), 2), dict.fromkeys(range(4), 64), False)
    plan = plan_layers([Row(None, 0), Row(1, None), Row(None, 2), Row(3, None)], sizes)
    assert plan.arch == "deci"
    assert [(each.heads, each.kv_heads, each.channels) for each in plan.layers] == [
        (1, 1, 64),
        (8, 2, 32),
        (0, 0, 64),
        (8, 2, 32),
    ]
    assert plan_layers([Row(0, 0), Row(1, 2)], sizes).arch == "llama", "an ordinary model with fewer layers"
    with pytest.raises(InputError, match="an output of its own"):
        plan_layers([Row(0, None)], replace(sizes, arch="qwen3"))
    with pytest.raises(InputError, match="this is gemma2"):
        plan_layers([Row(0, 0)], replace(sizes, arch="gemma2"))


def test_turning_rows_there_and_back() -> None:
    there, back = order(24, 3, True), order(24, 3, False)
    assert there[back].tolist() == list(range(24))
    assert there[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


# GGUF -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_file_says_what_the_model_says(pattern: str, source: Checkpoint, tmp_path: Path) -> None:
    model = pruned(source, PATTERNS[pattern], tmp_path / "model")
    export_gguf(model, tmp_path / "model.gguf", "f32", None, check=False)
    found = reference.logits(tmp_path / "model.gguf", TOKENS)
    np.testing.assert_allclose(found, said(model), rtol=1e-4, atol=1e-4 * np.abs(found).max())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_taking_blocks_out_of_a_file_is_taking_them_out_of_the_model(
    pattern: str, source: Checkpoint, tmp_path: Path
) -> None:
    """Tensor by tensor, byte by byte."""
    export_gguf(source, tmp_path / "whole.gguf", "q8_0", None, check=False)
    log = removal_log(tmp_path / "removals.jsonl", PATTERNS[pattern])
    prune_gguf(tmp_path / "whole.gguf", log, tmp_path / "cut.gguf", check=False)
    model = pruned(source, PATTERNS[pattern], tmp_path / "model")
    export_gguf(model, tmp_path / "model.gguf", "q8_0", None, check=False)
    one, two = GGUFReader(tmp_path / "cut.gguf"), GGUFReader(tmp_path / "model.gguf")
    assert [each.name for each in one.tensors] == [each.name for each in two.tensors]
    for ours, theirs in zip(one.tensors, two.tensors, strict=True):
        assert ours.tensor_type == theirs.tensor_type
        assert np.array_equal(ours.data, theirs.data), ours.name
    assert one.fields.keys() == two.fields.keys()
    for name in one.fields.keys() - {"general.name", "GGUF.version"}:
        assert one.fields[name].contents() == two.fields[name].contents(), name


def test_without_a_stand_in_an_attention_is_lost(source: Checkpoint, tmp_path: Path) -> None:
    """The control: the trap is real, and the reference knows it."""
    model = pruned(source, ["mlp.1"], tmp_path / "model")
    export_gguf(model, tmp_path / "model.gguf", "f32", None, check=False)
    reader = GGUFReader(tmp_path / "model.gguf")
    arch = str(reader.fields["general.architecture"].contents())
    if arch != "deci":
        pytest.skip("openelm has no holes")
    writer = GGUFWriter(tmp_path / "bare.gguf", arch)
    for name, field in reader.fields.items():
        if name.startswith(("deci.", "tokenizer.")):
            value: Any = field.contents()
            value = [0 if each == 32 else each for each in value] if name.endswith("feed_forward_length") else value
            member = field.types[-1] if isinstance(value, list) else None
            writer.add_key_value(name, value, field.types[0], sub_type=member)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    wrong = reference.logits(tmp_path / "bare.gguf", TOKENS)
    assert np.abs(wrong - said(model)).max() > 0.01 * np.abs(wrong).max()


def test_llama_3_stretches_frequencies_as_transformers_does() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model: Any = tiny_model("llama", 0, rope_parameters=rope, max_position_embeddings=512)
    size = model.config.hidden_size // model.config.num_attention_heads
    plain_ = 1 / 10000.0 ** (torch.arange(0, size, 2) / size)
    factors = rope_factors(model.config)
    assert factors is not None
    torch.testing.assert_close(plain_ / factors, model.model.rotary_emb.inv_freq)


def test_byte_fallback_pieces_are_joined_in_the_order_of_their_merges(tmp_path: Path) -> None:
    tokenizer = sentence_pieces()
    tiny_model("llama", 0, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    model = load(tmp_path / "m", dtype="float32", device="cpu")
    export_gguf(model, tmp_path / "m.gguf", "f32", None, check=False)
    for text in (*TEXTS, "the cat sat on the mat", "der Hund läuft"):
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert reference.pieces(tmp_path / "m.gguf", text) == ids, text


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused_and_can_be_copied(
    source: Checkpoint, tmp_path: Path
) -> None:
    odd = replace(source, tokenizer=byte_level(SIZE, prefix_space=True))
    with pytest.raises(InputError, match="`tokenizer_from`"):
        token_keys(odd.tokenizer, SIZE)
    export_gguf(source, tmp_path / "whole.gguf", "f16", None, check=False)
    export_gguf(odd, tmp_path / "odd.gguf", "f16", tmp_path / "whole.gguf", check=False)
    one, two = GGUFReader(tmp_path / "whole.gguf"), GGUFReader(tmp_path / "odd.gguf")
    name = "tokenizer.ggml.tokens"
    assert one.fields[name].contents() == two.fields[name].contents()


@pytest.mark.parametrize("kind", SHAPES)
def test_llama_cpp_itself_says_the_same(kind: str, tmp_path: Path) -> None:
    """Where it is installed: of every pattern, in one pass and token by token; and the reference is right about it."""
    pytest.importorskip("llama_cpp")
    source = made(kind, tmp_path / "source")
    for number, names in enumerate(PATTERNS.values()):
        model = pruned(source, names, tmp_path / f"m{number}")
        path = tmp_path / f"m{number}.gguf"
        told = export_gguf(model, path, "f32", None)
        assert told is not None
        assert told.difference < 1e-4
        assert told.texts == len(TEXTS)
        found, _ = logits(path, TOKENS)
        np.testing.assert_allclose(found, reference.logits(path, TOKENS), rtol=1e-3, atol=1e-4 * np.abs(found).max())
    whole, log = tmp_path / "whole.gguf", removal_log(tmp_path / "log", PATTERNS["first and last"])
    export_gguf(source, whole, "q8_0", None)
    told = prune_gguf(whole, log, tmp_path / "cut.gguf")
    assert told is not None
    assert told.difference < 1e-3, "the same numbers"


@pytest.mark.parametrize("pattern", ["many", "first and last"])
def test_blocks_come_out_of_a_file_in_four_bits(pattern: str, tmp_path: Path) -> None:
    """Where llama.cpp is installed, which quantises the whole file. K-quants hold 256 numbers, so the model is wide."""
    llama_cpp = pytest.importorskip("llama_cpp")
    whole, small, cut = (tmp_path / f"{name}.gguf" for name in ("whole", "small", "cut"))
    export_gguf(made("llama", tmp_path / "source", hidden_size=256, intermediate_size=512), whole, "f32", None)
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype, how.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, 1
    assert llama_cpp.llama_model_quantize(str(whole).encode(), str(small).encode(), how) == 0
    kinds = {each.tensor_type.name for each in GGUFReader(small).tensors}
    assert kinds >= {"Q4_K", "Q6_K"}
    told = prune_gguf(small, removal_log(tmp_path / "log", PATTERNS[pattern]), cut)
    assert told is not None
    assert told.difference < 1e-3, "the same numbers"
    assert told.agree == 1


# DeciLM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_decilms_layout_computes_the_same(pattern: str, source: Checkpoint, tmp_path: Path) -> None:
    model = pruned(source, PATTERNS[pattern], tmp_path / "model")
    (tmp_path / "deci").mkdir()
    if source.model.config.model_type == "qwen3":
        with pytest.raises(InputError, match="is qwen3"):
            write_nemotron(model, tmp_path / "deci")
        return
    write_nemotron(model, tmp_path / "deci")
    assert check(model, tmp_path / "deci") < 1e-5
    told = json.loads((tmp_path / "deci" / "config.json").read_text())
    assert told["block_configs"][-1]["ffn"]["no_op"] is False
    assert told["block_configs"][0]["attention"]["no_op"] is False
    assert not any(each["ffn"]["no_op"] for each in told["block_configs"])


def test_widths_are_told_by_a_factor_that_every_reader_rounds_to_them(source: Checkpoint) -> None:
    if source.model.config.model_type == "qwen3":
        pytest.skip("it has no place there")
    rows = rows_of(left(LAYERS, []))
    told = config_of(source, rows)
    for block in told["block_configs"]:
        for digits in (16, 6):  # mlx-lm keeps six digits
            width = int(2 * round(block["ffn"]["ffn_mult"], digits) * told["hidden_size"] / 3)
            assert -(-width // 256) * 256 == told["intermediate_size"]


def test_the_config_that_lies_beside_the_weights_reads_blocks_as_objects(llama: Checkpoint, tmp_path: Path) -> None:
    write_nemotron(llama, tmp_path)
    code = (
        "from transformers import AutoConfig\n"
        f"c = AutoConfig.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)\n"
        "print(c.block_configs[0].attention.no_op, c.to_dict()['block_configs'][0]['ffn']['no_op'])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False"]


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_file_and_a_record_of_it(llama: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    result = invoke(["export", llama.name, "--store", "q8_0", "--out", str(out), "--no-check"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "model.gguf.record.json").read_text())
    assert record["verb"] == "export"
    assert record["results"]["bytes"] == out.stat().st_size
    assert not list(tmp_path.glob("*.partial"))


def test_the_record_of_a_cut_file_tells_which_bytes_it_was_cut_from(llama: Checkpoint, tmp_path: Path) -> None:
    whole, log, out = tmp_path / "whole.gguf", removal_log(tmp_path / "log.jsonl", ["mlp.1"]), tmp_path / "cut.gguf"
    export_gguf(llama, whole, "f16", None, check=False)
    given = ["--gguf", str(whole), "--removals", str(log), "--out", str(out), "--no-check"]
    result = invoke(["export", *given])
    assert result.exit_code == 0, result.output
    inputs = json.loads((tmp_path / "cut.gguf.record.json").read_text())["inputs"]
    for name, path in (("gguf", whole), ("removals", log)):
        assert inputs[name] == {"name": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_folder_stands_for_the_log_in_it(tmp_path: Path) -> None:
    log = removal_log(tmp_path / "removals.jsonl", ["mlp.1"])
    file = tmp_path / "whole.gguf"
    assert ExportConfig(gguf=file, removals=tmp_path).removals == log
    assert ExportConfig(gguf=file, removals=log).removals == log


@pytest.mark.parametrize("steps", [1, 2])
def test_a_file_cut_behind_a_cliff_says_so(steps: int, llama: Checkpoint, tmp_path: Path) -> None:
    whole, log, out = tmp_path / "whole.gguf", tmp_path / "log.jsonl", tmp_path / "cut.gguf"
    curve = [(60.0, None), (63.6, "mlp.1"), (570.8, "mlp.2")]
    lines = [{"step": 0, "perplexity": 60.0}]
    lines += [
        {"step": step, "removed": [name], "perplexity": value} for step, (value, name) in enumerate(curve) if step
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    export_gguf(llama, whole, "f16", None, check=False)
    given = [
        "--gguf",
        str(whole),
        "--removals",
        str(log),
        "--removal-steps",
        str(steps),
        "--out",
        str(out),
        "--no-check",
    ]
    result = invoke(["export", *given])
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "cut.gguf.record.json").read_text())["results"].get("warning", {}).get("text", "")
    assert told.endswith("from 60 to 570.8 (9.51 times); stop after step 1") is (steps == 2)
    assert ("not usable" in result.output) is (steps == 2)


def test_a_graph_is_described_by_a_record_and_a_card(
    llama: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = {"blocks": {"mlp": 2}, "bytes": 9, "runtime": "ort", "difference": 1e-5, "tokens": 48, "same": 47}
    monkeypatch.setattr(job, "ready", lambda target: None)
    monkeypatch.setattr(job, "write_graph", lambda *given: found)
    export(llama.name, "onnx", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "record.json"]
    results = load_record(tmp_path / "out").results
    assert {name: results[name] for name in found} == found
    words = "47 of 48 tokens that torch decodes greedily"
    assert words in caplog.text
    assert words in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_of_little_use_is_exported_with_its_warning(llama: Checkpoint, tmp_path: Path) -> None:
    source, out = tmp_path / "ruined", tmp_path / "model.gguf"
    shutil.copytree(llama.name, source)
    given = {"text": "it is ruined", "command": "remodel cut ruined"}
    save_record(source, Record("prune", {}, {}, 1, {}, {"warning": given}))
    result = invoke(["export", str(source), "--out", str(out), "--no-check"])
    assert "it is ruined: remodel cut ruined" in result.output.splitlines()
    assert json.loads((tmp_path / "model.gguf.record.json").read_text())["results"]["warning"] == given


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of the two"),
        (["{model}", "--gguf", "{whole}"], "one of the two"),
        (["--gguf", "{whole}"], "without --removals"),
        (["{model}", "--removals", "{log}"], "go with --gguf"),
        (["{model}", "--to", "onyx"], "'onyx' is unknown"),
        (["{model}", "--store", "q9"], "'q9' is unknown"),
        (["--gguf", "{whole}", "--removals", "{log}", "--removal-steps", "9"], "has 1: lower it"),
        (["--gguf", "{cut}", "--removals", "{log}"], "no whole GGUF file"),
        (["--gguf", "{log}", "--removals", "{log}"], "no whole GGUF file"),
        (["--gguf", "{model}/none.gguf", "--removals", "{log}"], "check the path"),
        (["--gguf", "{whole}", "--removals", "{far}"], "give the log of this model"),
        (["--gguf", "{whole}", "--removals", "{bad}"], "is no attention or MLP"),
        (["--gguf", "{whole}", "--removals", "{whole}"], "removals.jsonl|UTF-8|JSON"),
    ],
    ids=str,
)
def test_what_is_refused(arguments: list[str], words: str, llama: Checkpoint, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    export_gguf(llama, whole, "f16", None, check=False)
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    places = {
        "model": llama.name,
        "whole": whole,
        "cut": tmp_path / "cut.gguf",
        "log": removal_log(tmp_path / "log.jsonl", ["mlp.1"]),
        "far": removal_log(tmp_path / "far.jsonl", ["mlp.77"]),
        "bad": removal_log(tmp_path / "bad.jsonl", ["cross.1"]),
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    given = [each.format(**places) for each in arguments]
    ended = invoke(["export", *given, "--out", str(tmp_path / "out.gguf")])
    assert ended.exit_code == 2
    assert any(word in ended.stderr for word in words.split("|")), ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_file_that_is_there_stays(llama: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        export_gguf(llama, tmp_path / "out.gguf", "f16", None)
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_a_file_that_says_something_else_is_not_kept(
    llama: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Any:
        raise InputError("the file gives other logits")

    monkeypatch.setattr(gguf_job, "can_check", lambda wanted: True)
    monkeypatch.setattr(gguf_job, "_against_torch", wrong)
    with pytest.raises(InputError, match="other logits"):
        export_gguf(llama, tmp_path / "out.gguf", "f16", None)
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_read_with_what_was_put_back(tmp_path: Path) -> None:
    lines = [
        {"step": 0},
        {"step": 1, "removed": ["attention.1"]},
        {"step": 2, "removed": ["mlp.2"]},
        {"step": 3, "removed": ["mlp.3"], "restored": ["attention.1"]},
    ]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gone_after(read_removals(tmp_path / "log"), None) == [Block(2, "mlp"), Block(3, "mlp")]
    assert gone_after(read_removals(tmp_path / "log"), 1) == [Block(1, "attention")]
