"""ONNX: a packed model's graph writes in ONNX Runtime what the model writes in torch; what can't be said is refused."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from commands import invoke
from graphs import made, pruned
from places import REPOSITORY
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.errors import InputError
from remodeler.exporting.graph import check as graph_check
from remodeler.exporting.graph import job as graph_job
from remodeler.exporting.graph.check import STEPS, check, empty, open_folder, reader
from remodeler.exporting.graph.tracing import refuse, stretches
from remodeler.exporting.job import export
from remodeler.exporting.results import ExportResults
from remodeler.model.caches import returned_cache
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("transformers.exporters")

GONE = ["attention.1", "mlp.2"]
FAMILIES = {
    "qwen2": ["mlp.1"],
    "qwen3": ["attention.2"],
    "gemma3_text": ["attention.0", "mlp.3"],
    "mixtral": ["attention.1", "mlp.1", "mlp.2"],
}
Exported = tuple[Checkpoint, Path]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A Llama without two blocks, and its graph, as the command writes it."""
    place = tmp_path_factory.mktemp("llama")
    model = pruned(made("llama", place / "whole"), GONE, place / "pruned")
    result = invoke(["export", model.name, "--to", "onnx", "--out", str(place / "graph")])
    assert result.exit_code == 0, result.output
    return model, place / "graph"


def test_the_folder_holds_what_generating_needs(llama: Exported) -> None:
    model, folder = llama
    record = json.loads((folder / "record.json").read_text())
    told = record["results"]
    assert told["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert told["difference"] < 1e-5
    assert told["same"] == told["tokens"] == 6 * STEPS
    assert told["blocks"] == {"attention": 3, "mlp": 3}
    assert record["inputs"]["model"]["name"] == model.name
    assert {"model.onnx", "model.onnx.data", "tokenizer.json", "generation_config.json"} <= {
        file.name for file in folder.iterdir()
    }
    weights = sum(parameter.numel() * 4 for parameter in model.model.parameters())
    assert (folder / "model.onnx.data").stat().st_size < 1.2 * weights, "weights are written once"


def test_each_attention_that_is_left_has_a_cache_of_any_length(llama: Exported) -> None:
    session = onnxruntime.InferenceSession(llama[1] / "model.onnx")
    past = [each.shape for each in session.get_inputs() if "past" in each.name]
    assert len(past) == 2 * 3
    assert all(size[1] == 2 and size[3] == 8 for size in past)
    assert all(isinstance(size[0], str) and isinstance(size[2], str) for size in past)


def test_transformers_reads_the_config_without_our_code(llama: Exported) -> None:
    config = json.loads((llama[1] / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["num_hidden_layers"] == 3
    assert not {"auto_map", "packing"} & config.keys()


def test_the_graph_does_not_name_this_machine(llama: Exported) -> None:
    written = (llama[1] / "model.onnx").read_bytes()
    assert b"site-packages" not in written
    assert str(REPOSITORY).encode() not in written


def test_the_code_on_the_card_writes_what_torch_writes(
    llama: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = llama
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    monkeypatch.chdir(folder)
    exec(code, {})
    ids = torch.tensor([model.tokenizer("Once upon a time")["input_ids"]])
    wanted = model.model.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0)[0]
    text = model.tokenizer.decode(wanted)
    assert capsys.readouterr().out.strip() == text.removesuffix("</s>").strip()


def test_prompts_come_at_once_or_in_parts_alone_or_padded(llama: Exported) -> None:
    """One graph for all: the cache after three parts is the cache after one."""
    model, folder = llama
    graph = open_folder(folder)
    ids = torch.arange(40).reshape(2, 20) * 7 % 290 + 4
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    whole = reader(model.model, graph)(ids, mask, empty(model, (ids, mask)))
    with torch.no_grad():
        wanted = reader(model.model, use_cache=True)(ids, mask, DynamicCache(config=model.model.config)).logits
    cache, parts = empty(model, (ids, mask)), []
    for start, end in ((0, 1), (1, 12), (12, 20)):
        found = reader(model.model, graph)(ids[:, start:end], mask[:, :end], cache)
        cache = returned_cache(found)
        parts.append(found.logits)
    for found in (whole.logits, torch.cat(parts, 1)):
        assert float((found - wanted)[mask.bool()].abs().max() / wanted.abs().max()) < 1e-5


def test_with_the_removed_blocks_back_the_outputs_differ(llama: Exported) -> None:
    """The control: the graph of the pruned model is not taken for the unpruned one's."""
    model, folder = llama
    whole = load(Path(model.name).parent / "whole", dtype="float32", device="cpu")
    assert check(model, folder, "onnxruntime").difference < 1e-5
    with pytest.raises(InputError, match="other logits in onnxruntime"):
        check(whole, folder, "onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_families_write_in_onnx_runtime_what_they_write_in_torch(kind: str, tmp_path: Path) -> None:
    """Sliding windows of 8 tokens behind prompts of more; experts; and a second time the same bytes."""
    model = pruned(made(kind, tmp_path / "whole"), FAMILIES[kind], tmp_path / "pruned")
    export(model.name, "onnx", tmp_path / "graph")
    told = json.loads((tmp_path / "graph" / "record.json").read_text())["results"]
    assert told["difference"] < 1e-5
    assert told["same"] == told["tokens"]


@pytest.mark.slow
def test_a_second_export_is_the_same(llama: Exported, tmp_path: Path) -> None:
    model, folder = llama
    export(model.name, "onnx", tmp_path / "again", check=False)
    for file in folder.iterdir():
        if file.name not in ("record.json", "README.md"):  # they name the command
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_without_the_runtime_it_says_that_it_could_not_check(
    monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not graph_job.runs(graph_job.TARGETS["onnx"])
    assert "could not be checked" in messages.text
    assert "not checked" in ExportResults().check_sentence()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_library_the_extra_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"the package {package}: pip install 'remodeler\[onnx\]'"):
        export("anything", "onnx", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"dtype": "bfloat16"}, "writes float32 only"), ({"to": "tensorrt"}, "choose gguf, nemotron, onnx")],
)
def test_what_contradicts_itself(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        export(**{"model": "anything", "to": "onnx", "out": tmp_path / "out"} | options)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    tiny_model("t5").save_pretrained(tmp_path / "t5")
    tiny_tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match="not a causal language model"):
        export(str(tmp_path / "t5"), "onnx", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_positions_that_depend_on_the_length_are_refused() -> None:
    """A graph would freeze them, and short texts would not show it."""
    stretched = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert stretches(tiny_model("llama", rope_parameters=stretched).config.to_dict()) == ["dynamic"]
    with pytest.raises(InputError, match=r"by the length of the text \(dynamic\)"):
        refuse(tiny_checkpoint("llama", rope_parameters=stretched))
    refuse(tiny_checkpoint("llama"))


def test_a_folder_that_is_there_stays(llama: Exported) -> None:
    with pytest.raises(InputError, match="exists"):
        export(llama[0].name, "onnx", llama[1])


def test_a_dry_run_says_what_would_be_written(
    llama: Exported, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    export(llama[0].name, "onnx", tmp_path / "out", dry_run=True)
    assert not list(tmp_path.iterdir())
    said = messages.text
    assert "3 attentions, each with its cache, and 3 MLPs" in said
    assert "model.onnx.data" in said


def test_what_the_exporter_cannot_trace_is_named(
    llama: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.exporters import OnnxExporter

    def fails(*_: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(OnnxExporter, "export", fails)
    with pytest.raises(InputError, match=r"\(packed_llama\) as ONNX \(RuntimeError: no such operator\): use"):
        export(llama[0].name, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_says_something_else_is_not_kept(
    llama: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_job, "trace", _stored(llama[1]))
    monkeypatch.setattr(graph_check, "BOUND", 0.0)
    with pytest.raises(InputError, match="nothing was kept"):
        export(llama[0].name, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_does_not_run_is_not_kept(
    llama: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("set_inputs() failed")

    real = graph_check.reader
    monkeypatch.setattr(graph_job, "trace", _stored(llama[1]))
    monkeypatch.setattr(graph_check, "reader", lambda model, graph=None, **how: fails if graph else real(model, **how))
    with pytest.raises(InputError, match=r"can't run what was written \(RuntimeError: set_inputs\(\) failed"):
        export(llama[0].name, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def _stored(folder: Path) -> Any:
    """In the place of tracing: the graph that was written before."""

    def traced(*_: Any) -> Any:
        return open_folder(folder)

    return traced
