"""ExecuTorch: a packed model's program writes in its runtime what the model writes in torch."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers.activations import GELUTanh

from commands import invoke
from graphs import made, pruned
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.errors import InputError
from remodeler.exporting.graph.check import STEPS, check
from remodeler.exporting.graph.executorch import LONGEST, longest, spelled_out
from remodeler.exporting.job import export
from tiny import tiny_model

Exported = tuple[Checkpoint, Path]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A Llama without two blocks, and its program, as the command writes it."""
    pytest.importorskip("executorch")
    pytest.importorskip("transformers.exporters")
    place = tmp_path_factory.mktemp("llama")
    model = pruned(made("llama", place / "whole"), ["attention.1", "mlp.2"], place / "pruned")
    result = invoke(["export", model.name, "--to", "executorch", "--out", str(place / "program")])
    assert result.exit_code == 0, result.output
    return model, place / "program"


@pytest.mark.slow
def test_the_program_writes_what_torch_writes(llama: Exported) -> None:
    model, folder = llama
    told = json.loads((folder / "record.json").read_text())["results"]
    assert told["runtime"].startswith("executorch ")
    assert told["difference"] < 1e-5
    assert told["same"] == told["tokens"] == 3 * STEPS
    assert told["blocks"] == {"attention": 3, "mlp": 3}
    assert {"model.pte", "tokenizer.json", "config.json", "generation_config.json", "README.md"} <= {
        file.name for file in folder.iterdir()
    }
    weights = sum(parameter.numel() * 4 for parameter in model.model.parameters())
    assert (folder / "model.pte").stat().st_size < 2 * weights + 1e5, "weights are written once"
    assert b"site-packages" not in (folder / "model.pte").read_bytes()


def test_gelu_by_tanh_is_spelled_out_while_a_program_is_made() -> None:
    """XNNPACK would compute another; in a Gemma 3 the check found 2.7e-4 of the largest logit."""
    model = tiny_model("gemma3_text")
    parts = [part for part in model.modules() if isinstance(part, GELUTanh)]
    x = torch.linspace(-6, 6, 1001)
    with spelled_out(model):
        others = [part for part in model.modules() if isinstance(part, GELUTanh)]
        assert len(others) == len(parts) > 0
        assert not {*map(id, parts)} & {*map(id, others)}
        found = others[0](x)
    assert [part for part in model.modules() if isinstance(part, GELUTanh)] == parts
    assert float((found - parts[0](x)).abs().max()) < 1e-6
    assert float((torch.nn.functional.gelu(x) - parts[0](x)).abs().max()) > 1e-4


@pytest.mark.slow
def test_with_the_removed_blocks_back_the_outputs_differ(llama: Exported) -> None:
    """The control: the program of the pruned model is not taken for the unpruned one's."""
    model, folder = llama
    only_mlp = pruned(
        load(Path(model.name).parent / "whole", dtype="float32", device="cpu"),
        ["attention.1"],
        Path(model.name).parent / "mlp-back",
    )
    with pytest.raises(InputError, match="other logits in executorch"):
        check(only_mlp, folder, "executorch", together=False)


@pytest.mark.slow
def test_the_code_on_the_card_writes_what_torch_writes(
    llama: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = llama
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    monkeypatch.chdir(folder)
    exec(code, {})
    ids = torch.tensor([model.tokenizer("Once upon a time")["input_ids"]])
    wanted = model.model.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0)[0]
    assert capsys.readouterr().out.strip() == model.tokenizer.decode(wanted).removesuffix("</s>").strip()


def test_texts_are_as_long_as_the_context_at_most() -> None:
    assert longest(tiny_model("llama")) == 64
    assert longest(tiny_model("llama", max_position_embeddings=1 << 17)) == LONGEST


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(InputError, match=r"the package executorch: pip install 'remodeler\[executorch\]'"):
        export("anything", "executorch", tmp_path / "out")
