"""A model whose modelling code lies beside its weights, with a part besides attention and MLP in every layer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from remodeler.checkpoint.forms import Form
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError
from remodeler.model.blocks import bypassed
from remodeler.model.widths import parameters_left, structures
from remodeler.pruning.criteria.sweep import sweep
from remodeler.runs.units import Block
from tiny import LLAMA, tiny_model, tiny_tokenizer, tiny_windows

CODE = """
from torch import nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM, LlamaModel, LlamaRMSNorm


class OddConfig(LlamaConfig):
    model_type = "odd_llama"
    extra: int = 4


class OddLayer(LlamaDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.down = nn.Linear(config.hidden_size, config.extra, bias=False)
        self.up = nn.Linear(config.extra, config.hidden_size, bias=False)

    def forward(self, hidden_states, *args, **kwargs):
        hidden_states = super().forward(hidden_states, *args, **kwargs)
        return hidden_states + self.up(self.down(hidden_states))


class OddModel(LlamaModel):
    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList([OddLayer(config, i) for i in range(config.num_hidden_layers)])
        self.post_init()


class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = OddModel(config)
        self.post_init()
"""
AUTO_MAP = {"AutoConfig": "OddConfig", "AutoModel": "OddModel", "AutoModelForCausalLM": "OddForCausalLM"}
IDS = tiny_windows().ids
REMOVED = [Block(0, "attention"), Block(1, "mlp"), Block(2, "attention"), Block(2, "mlp")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("odd") / "model"
    config = AutoConfig.for_model("llama", **LLAMA)
    config.save_pretrained(place)
    text = (place / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "odd_llama"')
    names = ", ".join(f'"{auto}": "modeling_odd.{name}"' for auto, name in AUTO_MAP.items())
    (place / "config.json").write_text(text.rstrip().rstrip("}").rstrip() + f', "auto_map": {{{names}}}}}')
    (place / "modeling_odd.py").write_text(CODE)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(place, trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


@pytest.fixture
def odd(folder: Path) -> Checkpoint:
    return load(folder, device="cpu", family="llama", trust_remote_code=True)


def test_the_code_runs_only_when_it_is_trusted(folder: Path) -> None:
    with pytest.raises(InputError, match="'odd_llama' is not known here"):
        load(folder, device="cpu")
    with pytest.raises(InputError, match="`trust_remote_code`"):
        load(folder, device="cpu", family="llama")


def test_parts_besides_attention_and_mlp_stay(odd: Checkpoint) -> None:
    assert odd.anatomy.extras[0] == ("down", "up")
    assert len(odd.anatomy.blocks()) == 8


@pytest.mark.parametrize("form", ["packed", "portable"])
def test_both_forms_that_can_hold_load_and_agree(form: Form, odd: Checkpoint, tmp_path: Path) -> None:
    saved = save_pruned(odd, REMOVED, tmp_path, form)
    assert saved.check.one_pass == 0.0
    with bypassed(odd.anatomy, REMOVED), torch.no_grad():
        assert torch.equal(saved.checkpoint.model(IDS).logits, odd.model(IDS).logits)
    assert (tmp_path / "modeling_odd.py").exists()


def test_heads_and_channels_of_such_layers_go_too(odd: Checkpoint, tmp_path: Path) -> None:
    widths = {block: (1,) if block.kind == "attention" else (3, 7) for block in structures(odd.anatomy)}
    assert len(widths) == 8
    saved = save_pruned(odd, REMOVED[:2], tmp_path, widths=widths)
    assert (saved.form, saved.check.one_pass) == ("packed", 0.0)
    assert saved.checkpoint.anatomy.parameters() == parameters_left(odd.anatomy, REMOVED[:2], widths)


def test_layers_with_such_parts_are_no_stock_model(odd: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not pair up"):
        save_pruned(odd, [Block(1, "attention"), Block(1, "mlp")], tmp_path, "stock")


def test_a_packed_one_can_be_pruned_again(odd: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "once").mkdir(), (tmp_path / "twice").mkdir()
    once = save_pruned(odd, REMOVED, tmp_path / "once").checkpoint
    assert set(once.anatomy.branches) == set(odd.anatomy.branches) - set(REMOVED)
    units = [(block,) for block in once.anatomy.blocks()]
    windows = tiny_windows()
    assert sweep(once.anatomy, windows, [], units) == sweep(odd.anatomy, windows, REMOVED, units)
    again = load(tmp_path / "once", device="cpu", trust_remote_code=True)
    assert save_pruned(again, [Block(3, "mlp")], tmp_path / "twice").check.one_pass == 0.0


@pytest.mark.parametrize("form", ["stock", "packed", "portable"])
def test_code_beside_a_native_model_is_neither_run_nor_handed_on(form: Form, tmp_path: Path) -> None:
    """Many checkpoints of known families still carry modelling code: without the flag it stays where it is."""
    (tmp_path / "out").mkdir()
    source = tmp_path / "source"
    tiny_model("llama").save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    told = json.loads((source / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling_bad.BadConfig", "AutoModelForCausalLM": "modeling_bad.BadForCausalLM"}
    (source / "config.json").write_text(json.dumps(told | {"auto_map": auto_map}))
    (source / "modeling_bad.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    native = load(source, device="cpu")
    layer = [Block(1, "attention"), Block(1, "mlp")]
    assert save_pruned(native, layer, tmp_path / "out", form).check.one_pass == 0.0
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out" / "modeling_bad.py").exists()
    assert "modeling_bad" not in (tmp_path / "out" / "config.json").read_text()


def test_it_loads_and_saves_where_remodeler_is_not_installed(odd: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    save_pruned(odd, REMOVED, tmp_path / "packed", "packed")
    code = (
        "import sys; sys.modules['remodeler'] = None\n"
        "import torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "load = lambda p: AutoModelForCausalLM.from_pretrained(p, trust_remote_code=True)\n"
        "first = load(sys.argv[1]); first.save_pretrained(sys.argv[2]); again = load(sys.argv[2])\n"
        "ids = torch.arange(3, 9)[None]\n"
        "assert torch.equal(first(ids).logits, again(ids).logits)\n"
        "print(type(again).__name__)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "packed"), str(tmp_path / "again")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "PackedOddForCausalLM", done.stderr
