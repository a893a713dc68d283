"""Tiny random encoders of the four families of YNU-HPCC's paper, with tokenizers that cut as theirs do."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import AlbertConfig, AutoModel, BertConfig, PreTrainedTokenizerFast, RobertaConfig, XLNetConfig

from tiny_tokenizers import byte_level, pieces, word_pieces

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 80,
}


def bert(**other: Any) -> tuple[Any, Any]:
    tokenizer = word_pieces()
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "sep_token": "[SEP]"})
    return BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **(SMALL | other)), tokenizer


def roberta() -> tuple[Any, Any]:
    tokenizer = byte_level(start="<s>", bos_token="<s>", cls_token="<s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    places = SMALL | {"max_position_embeddings": 80 + tokenizer.pad_token_id + 1}  # they start behind the padding's id
    return RobertaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **places), tokenizer


def sentence_pieces(template: str, kinds: int, side: str) -> PreTrainedTokenizerFast:
    core = pieces(scheme="always").backend_tokenizer
    core.add_special_tokens(["<pad>", "[CLS]", "[SEP]"])
    special = [(name, core.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        cls_token="[CLS]",
        sep_token="[SEP]",
        padding_side=side,
        pad_token_type_id=kinds,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def albert() -> tuple[Any, Any]:
    tokenizer = sentence_pieces("[CLS] $A [SEP]", 0, "right")
    return AlbertConfig(
        vocab_size=len(tokenizer), embedding_size=8, pad_token_id=tokenizer.pad_token_id, **SMALL
    ), tokenizer


def xlnet() -> tuple[Any, Any]:
    """Padded on the left; the classification token comes last and has a type of its own."""
    tokenizer = sentence_pieces("$A [SEP] [CLS]:2", 3, "left")
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=2, n_head=2, d_inner=32)
    return config, tokenizer


ENCODERS = {"bert": bert, "albert": albert, "roberta": roberta, "xlnet": xlnet}


def tiny_encoder(name: str, folder: Path, seed: int = 0) -> Path:
    """A folder with a tiny random encoder and its tokenizer."""
    config, tokenizer = ENCODERS[name]()
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
