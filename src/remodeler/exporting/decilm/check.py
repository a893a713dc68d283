"""Read a folder in DeciLM's layout again and compute it, by transformers' Llama with the layers that its config tells.

No runtime of the layout need be installed for that: it finds tensors in the wrong place, with the wrong name or shape,
and stand-ins that add something. What a runtime makes of the layout is for that runtime to show.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.stepwise import STEP_TOLERANCE
from remodeler.errors import InputError
from remodeler.exporting.decilm.write import WIDTH
from remodeler.model.files.weights import weight_files
from remodeler.model.logprobs import spread_tokens, vocabulary
from remodeler.packed_layers import NoOp
from remodeler.runs.records import read_json

TOKENS = 16


@torch.no_grad()
def check(checkpoint: Checkpoint, folder: Path) -> float:
    """The largest difference of a logit from the checkpoint's, as a share of the largest one.

    Raises:
        InputError: when it is too large.
    """
    ids = torch.tensor([spread_tokens(vocabulary(checkpoint.model), TOKENS)])
    wanted = checkpoint.model(ids).logits.float()
    found = reread(folder)(ids).logits.float()
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    bound = STEP_TOLERANCE[checkpoint.model.dtype]
    if not difference <= bound:
        raise InputError(
            f"what was written gives other logits than {checkpoint.name} (by {difference:.3g} of the largest, at most "
            f"{bound:g} was expected): nothing was kept, report it with the options you gave"
        )
    return difference


def reread(folder: Path) -> Any:
    """The model that a folder describes."""
    told = read_json(folder / "config.json")
    blocks = told.pop("block_configs")
    for name in ("architectures", "model_type", "auto_map", "rope_theta", "rope_scaling", "qkv_bias"):
        told.pop(name)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**told))
    for layer, block in zip(model.model.layers, blocks, strict=True):
        _shape(layer, block, told)
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= load_file(file)
    missing, extra = model.load_state_dict(tensors, strict=False, assign=True)
    left = [name for name in missing if not (name == "lm_head.weight" and told.get("tie_word_embeddings"))]
    if left or extra:
        raise InputError(f"{folder} has not the tensors that its config tells ({[*left, *extra][:3]}): report it")
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # made on meta, it had no numbers
    return model.eval()


def _shape(layer: Any, block: dict[str, Any], told: dict[str, Any]) -> None:
    """The widths of a layer, and nothing in the place of an attention that it lacks."""
    hidden = told["hidden_size"]
    width = int(2 * block["ffn"]["ffn_mult"] * hidden / 3)
    width = -(-width // WIDTH) * WIDTH  # as readers of the layout round
    with torch.device("meta"):
        for name in ("gate_proj", "up_proj"):
            setattr(layer.mlp, name, nn.Linear(hidden, width, bias=told["mlp_bias"]))
        layer.mlp.down_proj = nn.Linear(width, hidden, bias=told["mlp_bias"])
        if not block["attention"]["no_op"]:
            groups = block["attention"]["n_heads_in_group"]
            rows = told["num_attention_heads"] // groups * told["head_dim"]
            layer.self_attn.num_key_value_groups = groups
            for name in ("k_proj", "v_proj"):
                setattr(layer.self_attn, name, nn.Linear(hidden, rows, bias=told["attention_bias"]))
    if block["attention"]["no_op"]:
        layer.self_attn = NoOp(["hidden_states", None], None)
        layer.input_layernorm = nn.Identity()
