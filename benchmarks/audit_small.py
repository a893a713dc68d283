r"""A tagger of a few megabytes: an encoder cut out of a larger one, taught by a vote.

The encoder keeps some layers of a BERT-like one and, of each MLP, the channels with the largest weights; of its
vocabulary, the pieces that the posts need most; of its embeddings, the directions that hold most of these pieces'
variance (ELECTRA's form: narrow embeddings and a projection). Then it learns from gold spans, from the mean
likelihoods of a vote on the same posts (``remodel audit vote ... --likelihoods``) and from harmless texts
(``harmless_texts.py``), and is stored in float16. ``--unseen``: other harmless texts, in which all that is found is a
false alarm.

    python benchmarks/audit_small.py --texts tsd_train.csv --dev tsd_trial.csv --encoder MiniLM --teacher vote.jsonl \
        --harmless harmless.jsonl --unseen unseen.jsonl --out OUT
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import add_numbers, add_paths, new_parser, publish, run_main
from measurements import Column, Table
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, ElectraConfig, ElectraModel, PreTrainedTokenizerFast

from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.statistics.scoring import breakdown, scores
from remodeler.auditing.tagger.files import load_tagger
from remodeler.auditing.tagger.predict import find_spans
from remodeler.auditing.tagger.train_job import train_tagger
from remodeler.checkpoint.load import one_sentence
from remodeler.cli.screen import note
from remodeler.runs.folders import new_folder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

COLUMNS = (
    Column("part", "posts"),
    Column("f1", "F1", "{value:.4f}"),
    Column("error", "error", "{value:.4f}", "standard error of F1"),
)


def cut_tokenizer(tokenizer: Any, texts: Sequence[str], size: int) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """The tokenizer with the pieces that texts use most, and their old ids; words that lack theirs fall into parts."""
    counts = Counter(number for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"] for number in ids)
    old = tokenizer.get_vocab()
    letters = [name for name in old if len(name.removeprefix("##")) == 1 and counts[old[name]]]
    needed = {*SPECIAL, *letters, *(f"##{name}" for name in letters if f"##{name}" in old)}
    often = [number for number, _ in counts.most_common()]
    by_id = {number: name for name, number in old.items()}
    names = list(dict.fromkeys([*SPECIAL, *sorted(needed - {*SPECIAL}), *(by_id[number] for number in often)]))[:size]
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["model"]["vocab"] = {name: place for place, name in enumerate(names)}
    core["truncation"] = core["padding"] = None
    for token in core["added_tokens"]:
        token["id"] = names.index(token["content"])
    for name, token in core["post_processor"].get("special_tokens", {}).items():
        token["ids"] = [names.index(name)]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(core)),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    return made, [old[name] for name in names]


def narrowed(embeddings: Any, kept: Sequence[int], width: int, positions: int) -> dict[str, Tensor]:
    """Embeddings in fewer directions, and the projection that gives back what the norm made of them."""
    words = embeddings.word_embeddings.weight[list(kept)] + embeddings.token_type_embeddings.weight[0]
    centred = words - words.mean(1, keepdim=True)
    places = embeddings.position_embeddings.weight[:positions]
    basis = torch.linalg.svd(centred, full_matrices=False).Vh[:width].T  # [hidden, width]
    norm, hidden = embeddings.LayerNorm, words.shape[1]
    return {
        "embeddings.word_embeddings.weight": centred @ basis,
        "embeddings.position_embeddings.weight": (places - places.mean(1, keepdim=True)) @ basis,
        "embeddings.token_type_embeddings.weight": torch.zeros(2, width),
        "embeddings.LayerNorm.weight": torch.ones(width),
        "embeddings.LayerNorm.bias": torch.zeros(width),
        "embeddings_project.weight": norm.weight[:, None] * basis * (hidden / width) ** 0.5,
        "embeddings_project.bias": norm.bias,
    }


def thinned(layer: Any, channels: int) -> dict[str, Tensor]:
    """A layer with the channels of its MLP whose weights, in and out, are largest."""
    into, out = layer.intermediate.dense, layer.output.dense
    kept = (into.weight.norm(dim=1) * out.weight.norm(dim=0)).topk(channels).indices.sort().values
    changed = {
        "intermediate.dense.weight": into.weight[kept],
        "intermediate.dense.bias": into.bias[kept],
        "output.dense.weight": out.weight[:, kept],
    }
    return dict(layer.state_dict()) | changed


@torch.no_grad()
def cut_encoder(given: Any, texts: Sequence[str], folder: Path) -> None:
    """Write the small encoder and its tokenizer."""
    with one_sentence(given.encoder, "the encoder"):
        source = AutoModel.from_pretrained(given.encoder, dtype=torch.float32)
    tokenizer, kept = cut_tokenizer(AutoTokenizer.from_pretrained(given.encoder), texts, given.pieces)
    old = source.config
    config = ElectraConfig(
        vocab_size=len(kept),
        embedding_size=given.width,
        hidden_size=old.hidden_size,
        num_hidden_layers=len(given.layers),
        num_attention_heads=old.num_attention_heads,
        intermediate_size=given.channels,
        max_position_embeddings=given.positions,
        pad_token_id=0,
    )
    weights = narrowed(source.embeddings, kept, given.width, given.positions)
    for place, number in enumerate(given.layers):
        layer = thinned(source.encoder.layer[number], given.channels)
        weights |= {f"encoder.layer.{place}.{name}": value for name, value in layer.items()}
    model = ElectraModel(config)
    told = model.load_state_dict(weights, strict=False)
    assert not told.unexpected_keys, told.unexpected_keys
    assert all("position_ids" in key or "token_type_ids" in key for key in told.missing_keys), told.missing_keys
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def halved(folder: Path) -> None:
    """Weights in float16 on disk."""
    trained = load_tagger(folder, "cpu")
    trained.model.encoder.half().save_pretrained(folder)


def megabytes(folder: Path) -> float:
    """What a user of the tagger needs."""
    names = ("config.json", "model.safetensors", "head.safetensors", "tagger.json", "tokenizer.json")
    return sum((folder / name).stat().st_size for name in (*names, "tokenizer_config.json")) / 1e6


def main() -> None:
    """Cut, train, store, score."""
    parser = new_parser(__doc__)
    add_paths(parser, "texts", "dev", "out")
    parser.add_argument("--encoder", required=True)
    add_paths(parser, "teacher", "harmless", "unseen", required=False)
    add_numbers(parser, pieces=6000, width=160, positions=256, channels=384, epochs=5, seed=1, rate=3e-4, share=0.7)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 3])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    encoder, out = given.out / "encoder", given.out / "tagger"
    if not encoder.exists():
        with new_folder(encoder) as work:
            cut_encoder(given, read_posts(given.texts).texts, work)
    if not out.exists():
        data = {"texts": given.texts, "dev": given.dev, "teacher": given.teacher, "harmless": given.harmless}
        pace = {"epochs": given.epochs, "learning_rate": given.rate, "head_rate": 10 * given.rate, "seed": given.seed}
        plain = {"auxiliary": "none", "output": "linear", "teacher_share": given.share}
        train_tagger(**data, **pace, **plain, encoder=str(encoder), out=out, device="cpu")
    small = given.out / "small"
    if not small.exists():
        with new_folder(small) as work:
            shutil.copytree(out, work, dirs_exist_ok=True)
            halved(work)
    dev = read_posts(given.dev, known=True)
    parts = breakdown(scores(find_spans(load_tagger(small, "cpu"), dev.texts), dev.spans), dev.spans)
    note(f"{small}: {megabytes(small):.2f} MB")
    if given.unseen:
        texts = read_posts(given.unseen).texts
        found = sum(map(bool, find_spans(load_tagger(small, "cpu"), texts)))
        note(f"{given.unseen}: something was found in {found:,} of {len(texts):,} texts")
    rows = tuple({"part": name, "f1": each.f1, "error": each.error} for name, each in parts.items())
    publish(given, {"scores": Table(COLUMNS, rows)})


if __name__ == "__main__":
    run_main(main)
