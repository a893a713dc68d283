"""What is written loads in transformers 4 too: same logits, same token ids; and transformers 5 reads no difference.

The asking part needs transformers 4.57 in a folder of its own, named by ``REMODELER_TRANSFORMERS4``:
``pip install --no-deps --target FOLDER 'transformers==4.57.6' 'tokenizers==0.22.2' 'huggingface-hub==0.36.2'``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer

from remodeler.auditing.tagger.files import TaggerSettings, load_tagger, new_tagger, save_tagger
from remodeler.checkpoint.compatibility import tokenizer_with_older_names, with_older_names
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.model.families import FAMILIES
from remodeler.runs.units import Block
from tiny import AUTO, CONFIGS, LLAMA, NEOX, VARIANTS, tiny_model, tiny_tokenizer
from tiny_encoders import ENCODERS, tiny_encoder
from tiny_tokenizers import LINES, byte_level, pieces

IDS = torch.arange(3, 43)[None]
UNKNOWN_TO_4 = ("ministral3",)
WIDE = LLAMA | {"hidden_size": 64, "head_dim": 16}


def rope(kind: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5e5, **more}}


SCALED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-linear": ("llama", LLAMA | rope("linear", factor=4.0)),
    "llama-dynamic": ("llama", LLAMA | {"max_position_embeddings": 32} | rope("dynamic", factor=4.0)),
    "llama-llama3": (
        "llama",
        LLAMA
        | rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    ),
    "qwen2-yarn": ("qwen2", LLAMA | rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "phi3-longrope": (
        "phi3",
        LLAMA
        | {"original_max_position_embeddings": 32}
        | rope("longrope", short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[2.0, 3.0, 4.0, 5.0]),
    ),
    "phi3-partial": ("phi3", WIDE | rope(partial_rotary_factor=0.75)),
    "stablelm-partial": ("stablelm", WIDE | rope(partial_rotary_factor=0.75)),
    "glm4-partial": ("glm4", WIDE | rope(partial_rotary_factor=0.75)),
    "gpt_neox-half": ("gpt_neox", NEOX | {"hidden_size": 64} | rope("linear", factor=2.0, partial_rotary_factor=0.5)),
    "gemma3-two-bases": (
        "gemma3_text",
        LLAMA
        | {
            "sliding_window": 8,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 3e3},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        },
    ),
}
KINDS = {**{name: (name, values) for name, values in CONFIGS.items()}, **VARIANTS, **SCALED}

READ = """
import json, sys, transformers
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer
transformers.logging.set_verbosity_error()
autos = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}
autos["encoder"] = AutoModel
found = {"version": transformers.__version__}
for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    order = json.loads(folder.with_suffix(".json").read_text())
    try:
        ids = AutoTokenizer.from_pretrained(folder)(order["texts"])["input_ids"]
        model, info = autos[order["task"]].from_pretrained(folder, output_loading_info=True, torch_dtype="auto")
        wanted = load_file(folder.with_suffix(".safetensors"))
        inputs = {name: value for name, value in wanted.items() if name != "logits"}
        with torch.no_grad():
            logits = model.eval()(**inputs)[order.get("output", "logits")]
        difference = ((logits - wanted["logits"]).abs().max() / wanted["logits"].abs().max()).item()
        missing = sorted(info["missing_keys"] + [key[0] for key in info["mismatched_keys"]])
        found[folder.name] = {"difference": difference, "missing": missing, "ids": ids, "dtype": str(model.dtype)}
    except Exception as error:
        found[folder.name] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(found))
"""


def source(name: str, folder: Path, tokenizer: Any = None) -> Path:
    """A checkpoint of a kind, with a rope base that is nobody's default."""
    kind, values = KINDS[name]
    turned = {} if name in SCALED or kind in ("olmo3", "ministral3") else {"rope_theta": 5e5}
    config = AutoConfig.for_model(kind, **values, **turned)
    torch.manual_seed(0)
    model = AUTO[FAMILIES[kind].task].from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def written(name: str, root: Path, tokenizer: Any = None) -> Path:
    """What a verb writes of a kind, with what it says of some tokens beside it."""
    task = FAMILIES[KINDS[name][0]].task
    checkpoint = load(source(name, root / "sources" / name, tokenizer), device="cpu")
    folder = root / "results" / name
    folder.mkdir(parents=True)
    save_pruned(checkpoint, [], folder, "portable" if task == "seq2seq" or name == "qwen3_moe-mixed" else "stock")
    inputs = {"input_ids": IDS, **({"decoder_input_ids": IDS.clone()} if task == "seq2seq" else {})}
    with torch.no_grad():
        logits = checkpoint.model(**inputs).logits
    save_file({**inputs, "logits": logits.contiguous()}, folder.with_suffix(".safetensors"))
    folder.with_suffix(".json").write_text(json.dumps({"task": task, "texts": LINES}))
    return folder


def transformers_4(folder: Path) -> dict[str, Any]:
    """What it says of all folders in one."""
    there = {"PYTHONPATH": os.environ["REMODELER_TRANSFORMERS4"]}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder)], env=os.environ | there, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("older")
    for name in KINDS:
        written(name, root)
    (root / "results" / "plain").symlink_to(root / "sources" / "llama")  # the control: as transformers 5 writes it
    for suffix in (".json", ".safetensors"):
        (root / "results" / "plain").with_suffix(suffix).symlink_to((root / "results" / "llama").with_suffix(suffix))
    return transformers_4(root / "results")


@pytest.mark.transformers4
@pytest.mark.parametrize("name", KINDS)
def test_transformers_4_computes_the_same(name: str, answers: dict[str, Any], tmp_path: Path) -> None:
    assert answers["version"].startswith("4.")
    found = answers[name]
    if name in UNKNOWN_TO_4:
        assert "does not recognize this architecture" in found["error"]
        return
    assert found.get("error") is None
    assert not found["missing"]
    assert found["difference"] < 1e-5
    assert found["dtype"] == "torch.float32"
    assert found["ids"] == tiny_tokenizer()(LINES)["input_ids"]


@pytest.mark.transformers4
def test_what_transformers_5_writes_it_refuses(answers: dict[str, Any]) -> None:
    """The control."""
    assert "TokenizersBackend" in answers["plain"]["error"]


@pytest.mark.transformers4
def test_tokenizers_cut_texts_as_before(tmp_path: Path) -> None:
    marks = byte_level()
    marks.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    kinds = {"bytes": byte_level(), "marks": marks, "pieces": pieces(), "metaspace": pieces(scheme="first")}
    for name, tokenizer in kinds.items():
        KINDS[name] = ("llama", LLAMA | {"vocab_size": 600})
        written(name, tmp_path, tokenizer)
        del KINDS[name]
    found = transformers_4(tmp_path / "results")
    for name, tokenizer in kinds.items():
        assert found[name].get("error") is None
        assert found[name]["ids"] == tokenizer(LINES)["input_ids"]


@pytest.mark.transformers4
def test_taggers_are_ordinary_encoders(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name in ENCODERS:
        tagger = new_tagger(str(tiny_encoder(name, tmp_path / "sources" / name)), TaggerSettings(), 0, "cpu")
        save_tagger(tagger, results / name)
        with torch.no_grad():
            output = tagger.model.encoder.eval()(input_ids=IDS % 20).last_hidden_state
        save_file({"input_ids": IDS % 20, "logits": output.contiguous()}, results / f"{name}.safetensors")
        order = {"task": "encoder", "output": "last_hidden_state", "texts": LINES}
        (results / f"{name}.json").write_text(json.dumps(order))
    found = transformers_4(results)
    for name in ENCODERS:
        assert found[name].get("error") is None
        assert found[name]["difference"] < 1e-5
        assert found[name]["ids"] == load_tagger(results / name, "cpu").tokenizer(LINES)["input_ids"]


# The names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_neox", "qwen3_moe", *SCALED])
def test_transformers_5_reads_no_difference(name: str, tmp_path: Path) -> None:
    kind, values = KINDS[name]
    config = AutoConfig.for_model(kind, **values)
    config.save_pretrained(tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(with_older_names(plain)))
    again = dict(AutoConfig.from_pretrained(tmp_path).rope_parameters)
    assert again.pop("type", "longrope") == "longrope"  # Phi-3's, which transformers 4 wants
    assert again == config.rope_parameters


def test_older_names_stand_beside_the_new_ones() -> None:
    rope_parameters = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6, "partial_rotary_factor": 0.5}
    found = with_older_names({"model_type": "llama", "dtype": "bfloat16", "rope_parameters": rope_parameters})
    assert (found["dtype"], found["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert (found["rope_theta"], found["partial_rotary_factor"]) == (1e6, 0.5)
    assert found["rope_scaling"] == {"rope_type": "yarn", "factor": 2.0}
    assert found["rope_parameters"] == rope_parameters
    assert with_older_names({"rope_parameters": {"rope_theta": 3.0, "rope_type": "default"}})["rope_scaling"] is None
    assert with_older_names({"model_type": "gpt2", "n_embd": 8}) == {"model_type": "gpt2", "n_embd": 8}


def test_configs_inside_a_config_get_them_too() -> None:
    text = {"model_type": "llama", "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    found = with_older_names({"model_type": "llava", "text_config": text, "vision_config": {"hidden_size": 4}})
    assert found["text_config"]["rope_theta"] == 1e6
    assert found["vision_config"] == {"hidden_size": 4}


def test_a_tokenizer_gets_the_class_of_its_source() -> None:
    given = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"], "is_local": True}
    assert tokenizer_with_older_names(given, "GPT2Tokenizer") == {
        "tokenizer_class": "GPT2Tokenizer",
        "additional_special_tokens": ["<a>"],
    }
    assert tokenizer_with_older_names(given)["tokenizer_class"] == "PreTrainedTokenizerFast"
    named = {"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": {"image_token": "<image>"}}
    assert tokenizer_with_older_names(named) == named


@pytest.mark.parametrize(
    ("name", "gone", "field"),
    [
        ("gemma2", [1], "layer_types"),
        ("gemma2", [0, 1], None),  # the turn goes on as before
        ("gemma2", [1, 3], "layer_types"),  # all that is left is of one kind
        ("smollm3", [0], "no_rope_layers"),
        ("llama", [1], None),
        ("qwen2", [1], None),
    ],
)
def test_readers_that_count_layers_are_told_of_a_turn_that_broke(
    name: str, gone: list[int], field: str | None, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    blocks = [Block(layer, kind) for layer in gone for kind in ("attention", "mlp")]
    checkpoint = load(source(name, tmp_path / "in"), device="cpu")
    assert save_pruned(checkpoint, blocks, tmp_path / "out").form == "stock"
    words = " ".join(messages.text.split())
    assert ("llama.cpp counts layers" in words) is (field is not None)
    assert field is None or f"a {name} has by itself ({field})" in words


# What lies beside the weights -----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkpoint as people keep them: a stored tokenizer, settings that transformers 5 would not write, a licence."""
    folder = source("llama", tmp_path / "home")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "a_note": "from the makers"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.3, "eos_token_id": [2, 5]}')
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("TOOLS {{ messages[0].content }}")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "LICENSE").write_text("do as you like")
    (folder / "optimizer_notes.json").write_text("{}")
    return folder


def test_the_sources_own_files_are_kept(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    save_pruned(load(home, device="cpu"), [Block(1, "attention"), Block(1, "mlp")], out)
    for name in ("generation_config.json", "LICENSE", "chat_template.jinja", "tokenizer.json"):
        assert (out / name).read_bytes() == (home / name).read_bytes()
    assert json.loads((out / "tokenizer_config.json").read_text())["a_note"] == "from the makers"
    assert (out / "additional_chat_templates" / "tool_use.jinja").exists()
    assert not (out / "optimizer_notes.json").exists()
    templates = AutoTokenizer.from_pretrained(out).chat_template
    assert templates == {"default": "{{ messages[0].content }}", "tool_use": "TOOLS {{ messages[0].content }}"}


def test_files_that_read_back_otherwise_are_not_taken(home: Path, tmp_path: Path) -> None:
    """The verb worked with another tokenizer than the one that lies there now."""
    checkpoint = load(home, device="cpu")
    byte_level().save_pretrained(home)
    out = tmp_path / "out"
    out.mkdir()
    save_pruned(checkpoint, [Block(1, "attention")], out)
    text = "the cat sat on 12 mats"
    assert AutoTokenizer.from_pretrained(out)(text)["input_ids"] == checkpoint.tokenizer(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(home)(text)["input_ids"] != checkpoint.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("named", ["float32", "bfloat16", None])
def test_the_dtype_is_that_of_the_files(stored: torch.dtype, named: str | None, tmp_path: Path) -> None:
    """Whatever the config says, or where it says nothing: computed in float32, written as stored."""
    model: Any = tiny_model("llama").to(stored)
    model.save_pretrained(tmp_path / "in")
    tiny_tokenizer().save_pretrained(tmp_path / "in")
    settings = json.loads((tmp_path / "in" / "config.json").read_text())
    settings.pop("dtype")
    (tmp_path / "in" / "config.json").write_text(json.dumps(settings | ({"dtype": named} if named else {})))
    (tmp_path / "out").mkdir()
    saved = save_pruned(load(tmp_path / "in", dtype="float32", device="cpu"), [Block(0, "mlp")], tmp_path / "out")
    assert saved.checkpoint.stored_dtype == stored
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["dtype"] == told["torch_dtype"] == str(stored).removeprefix("torch.")
