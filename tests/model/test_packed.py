"""A packed model is an ordinary one: it trains, shards, keeps its dtype and is saved again."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from remodeler import packed
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.model.blocks import projection
from remodeler.model.families import FAMILIES
from remodeler.model.widths import parameters_left
from remodeler.runs.units import Block
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer, tiny_windows

peft = pytest.importorskip("peft")

REMOVED = [Block(0, "attention"), Block(2, "attention"), Block(1, "mlp")]
IDS = tiny_windows(count=2, length=12).ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    save_pruned(tiny_checkpoint("llama"), REMOVED, place, "packed")
    return place


@pytest.fixture
def model(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_config_says_what_it_is(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "packed_llama"
    assert config["num_hidden_layers"] == 2
    assert config["architectures"] == ["PackedLlamaForCausalLM"]
    assert config["packing"]["num_hidden_layers"] == 4
    kept = [[0, ["mlp"]], [1, ["attention"]], [2, ["mlp"]], [3, ["attention", "mlp"]]]
    assert config["packing"]["kept"] == kept
    assert "per_layer_config" not in config, "transformers reads it and loads silently wrong"
    assert (folder / "packed.py").read_text() == Path(packed.__file__).read_text()


def test_parameters_of_kept_layers_have_the_names_of_the_family(model: torch.nn.Module) -> None:
    names = set(model.state_dict())
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.layers.0.pre.0.mlp.up_proj.weight" in names
    assert "model.layers.0.post.0.mlp.up_proj.weight" in names
    assert not any("pre" in name and "self_attn" in name for name in names)


def test_auto_model_loads_the_trunk(folder: Path, model: torch.nn.Module) -> None:
    trunk = AutoModel.from_pretrained(folder, dtype=torch.float32)
    assert type(trunk).__name__ == "PackedLlamaModel"
    with torch.no_grad():
        assert torch.equal(model.lm_head(trunk(IDS)[0]), model(IDS).logits)


def test_saved_again_it_loads_the_same(model: torch.nn.Module, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert (tmp_path / "packed.py").exists()
    assert torch.equal(copy.deepcopy(model)(IDS).logits, model(IDS).logits)


def test_all_parameters_learn_with_gradient_checkpointing_as_without(model: torch.nn.Module) -> None:
    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.train()
    plain = gradients()
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    checkpointed = gradients()
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    assert all(torch.allclose(checkpointed[name], plain[name], atol=1e-6) for name in plain)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft still asks by the old name
def test_lora_reaches_the_orphans_and_merges_back(model: torch.nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert any("post.0.mlp" in name and "lora" in name for name, _ in tuned.named_parameters())
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    before = tuned(IDS, labels=IDS).loss
    for _ in range(3):
        optimizer.zero_grad()
        tuned(IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert tuned(IDS, labels=IDS).loss < before
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    again = load(tmp_path, device="cpu")
    assert torch.equal(again.model(IDS).logits, merged(IDS).logits)
    assert set(again.anatomy.branches) == set(tiny_checkpoint("llama").anatomy.branches) - set(REMOVED)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # peft sees GPT-2's projections itself
def test_layers_of_different_widths_train_and_merge(name: str, tmp_path: Path) -> None:
    """Projections say what they are, or LoRA would build matrices of the source's width beside them."""
    checkpoint = tiny_checkpoint(name)
    widths = {Block(1, "mlp"): tuple(range(7)), Block(3, "attention"): (1,), Block(3, "mlp"): (0, 5)}
    (tmp_path / "narrow").mkdir()
    model = save_pruned(checkpoint, [Block(0, "mlp")], tmp_path / "narrow", widths=widths).checkpoint.model
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    tuned(IDS, labels=IDS).loss.backward()
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    optimizer.step()
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tiny_tokenizer().save_pretrained(tmp_path / "merged")
    again = load(tmp_path / "merged", device="cpu")
    assert torch.equal(again.model(IDS).logits, merged(IDS).logits)
    assert again.anatomy.parameters() == parameters_left(checkpoint.anatomy, [Block(0, "mlp")], widths)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed GPT-2, whose forward asks its modules how many heads they have."""
    place = tmp_path_factory.mktemp("narrow")
    widths = {Block(1, "mlp"): tuple(range(7)), Block(3, "attention"): (1, 2)}
    save_pruned(tiny_checkpoint("gpt2"), [Block(0, "mlp")], place, widths=widths)
    return place


def with_counts(folder: Path, place: Path, counts: dict[str, list[str]] | None) -> Path:
    """The folder with other names of counts, or as it was before they were written."""
    shutil.copytree(folder, place)
    config = json.loads((place / "config.json").read_text())
    config["packing"] |= {"counts": counts} if counts else {}
    config["packing"] = {key: value for key, value in config["packing"].items() if counts or key != "counts"}
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_names_of_counts_come_from_the_familys_row(folder: Path, narrow: Path) -> None:
    packing = json.loads((narrow / "config.json").read_text())["packing"]
    stack = FAMILIES["gpt2"].stacks[0]
    assert packing["counts"] == {"all": list(stack.counts), "queries": list(stack.query_counts)}
    assert "counts" not in json.loads((folder / "config.json").read_text())["packing"], "nothing is narrower there"


def test_a_folder_from_before_they_were_written_is_read_as_it_was(narrow: Path, tmp_path: Path) -> None:
    """Also by the file beside its weights, where this package is not installed."""
    older = with_counts(narrow, tmp_path / "older", None)
    wanted = AutoModelForCausalLM.from_pretrained(narrow, dtype=torch.float32)(IDS).logits
    assert torch.equal(AutoModelForCausalLM.from_pretrained(older, dtype=torch.float32)(IDS).logits, wanted)
    torch.save((IDS, wanted), tmp_path / "wanted.pt")
    code = (
        "import sys; sys.modules['remodeler'] = None\n"
        "import torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "ids, wanted = torch.load(sys.argv[1])\n"
        "for folder in sys.argv[2:]:\n"
        "    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)\n"
        "    print(torch.equal(model(ids).logits, wanted))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "wanted.pt"), str(narrow), str(older)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr
    (tmp_path / "again").mkdir()
    again = save_pruned(load(older, device="cpu"), [], tmp_path / "again").checkpoint.model.config
    assert again.packing == AutoConfig.from_pretrained(narrow).packing, "what is written anew names them"


def test_without_the_names_a_narrower_model_is_another_one(narrow: Path, tmp_path: Path) -> None:
    """The control: that the names are needed, and read."""
    nameless = with_counts(narrow, tmp_path / "nameless", {"all": [], "queries": []})
    with pytest.raises(ValueError, match="not enough values"):
        AutoModelForCausalLM.from_pretrained(nameless, dtype=torch.float32)(IDS)


def test_a_new_model_of_such_a_config_starts_as_one_of_full_width(tmp_path: Path) -> None:
    widths = {Block(1, "mlp"): tuple(range(7)), Block(3, "attention"): (1,)}
    save_pruned(tiny_checkpoint("llama"), REMOVED[:2], tmp_path, widths=widths)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    spread = {parameter.std().item() for name, parameter in model.named_parameters() if "proj" in name}
    assert all(0.01 < each < 0.03 for each in spread)


def test_weights_are_sharded_and_tied_ones_written_once(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama-tied")
    save_pruned(checkpoint, REMOVED, tmp_path, "packed", max_shard_size="40KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert "lm_head.weight" not in index["weight_map"]
    again = load(tmp_path, device="cpu").model
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_the_stored_dtype_is_kept(tmp_path: Path) -> None:
    """Weights stored in bfloat16, pruned in float32, are written in bfloat16 again, bit for bit."""
    source = tiny_model("llama").to(torch.bfloat16)
    source.save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    checkpoint = load(tmp_path / "source", dtype="float32", device="cpu")
    (tmp_path / "pruned").mkdir()
    save_pruned(checkpoint, REMOVED, tmp_path / "pruned")
    assert AutoConfig.from_pretrained(tmp_path / "pruned").dtype == torch.bfloat16
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype="auto")
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(again.state_dict()[name], source.state_dict()["model.layers.3.self_attn.q_proj.weight"])


def test_sliding_windows_move_with_their_attentions(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("gemma2")
    before = checkpoint.model.config.layer_types
    assert len(set(before)) == 2
    save_pruned(checkpoint, [Block(0, "attention"), Block(3, "attention")], tmp_path, "packed")
    assert AutoConfig.from_pretrained(tmp_path).layer_types == before[1:3]


def test_a_misspelt_class_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="PackedNothing"):
        packed.PackedNothing  # noqa: B018


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "mixtral"])
def test_a_folder_from_before_blocks_were_traced_reads_as_it_did(name: str, tmp_path: Path) -> None:
    """Its packing says neither where output projections are nor what a layer had; it is pruned further all the same."""
    (tmp_path / "new").mkdir(), (tmp_path / "again").mkdir()
    new = save_pruned(tiny_checkpoint(name), REMOVED, tmp_path / "new", "packed").checkpoint
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    assert config["packing"].pop("had")
    for names in config["packing"]["branches"].values():
        assert names.pop("out")
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    old = load(tmp_path / "old", device="cpu")
    assert old.anatomy.extras == new.anatomy.extras
    for block, branch in new.anatomy.branches.items():
        found = old.anatomy.branches[block]
        assert projection(found).keys() == projection(branch).keys()
        assert {**found.names, "out": branch.names["out"]} == branch.names
    with torch.no_grad():
        assert torch.equal(old.model(IDS).logits, new.model(IDS).logits)
    assert save_pruned(old, [Block(3, "mlp")], tmp_path / "again").check.one_pass == 0
