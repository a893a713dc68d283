"""Damaged files of every format that is read: they are taken for what they are, or refused in one sentence.

Each format has a good file; it is damaged in ways that hypothesis draws (bytes flipped, cut out, put in, a JSON value
of another kind), and its reader may return or raise `InputError`. Anything else is a traceback in front of a user.
"""

import csv
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from remodeler.auditing.detectors.lexicon import BUNDLED
from remodeler.auditing.detectors.lexicon import load as load_lexicon
from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.formats.predictions import read_predictions
from remodeler.checkpoint.load import check_files
from remodeler.data.questions import read_questions
from remodeler.data.sources import read_texts
from remodeler.errors import InputError
from remodeler.exporting.removals import gone_after, read_removals
from remodeler.merging.files import tensor_places
from remodeler.merging.from_mergekit import read_merge
from remodeler.model.gguf.file import read_gguf
from remodeler.reporting.card_data import inherited_metadata
from remodeler.runs.records import load_record, read_json
from remodeler.runs.removals import read_log
from remodeler.runs.runlog import RunLog

Read = Callable[[Path], object]

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


# Good files -----------------------------------------------------------------------------------------------------------

HEADER = {
    "step": 0,
    "perplexity": 8.5,
    "parameters": 100,
    "model": {"sha256": "a"},
    "texts": {"sha256": "b"},
    "options": {"method": "x"},
}
STEP = {
    "step": 1,
    "removed": ["attention.1"],
    "importance": {"attention.1": 1.5, "mlp.0": None},
    "perplexity": 9.0,
    "parameters": 90,
    "seconds": 1.0,
}
YAML = b"""merge_method: ties
base_model: base
models:
  - model: one
    parameters: {weight: 0.5, density: [0.1, 0.9]}
  - model: two
    parameters: {weight: {value: 1}, density: 0.5}
parameters: {normalize: true}
dtype: float32
"""
RECORD = {"verb": "prune", "options": {}, "inputs": {}, "seed": 1, "versions": {}, "results": {"removed": []}}


def gguf_file(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    sizes = {"block_count": 1, "context_length": 16, "embedding_length": 8, "feed_forward_length": 8}
    for name, value in {**sizes, "attention.head_count": 2}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    writer.add_array("tokenizer.ggml.tokens", list("abcdefgh"))
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for name in ("token_embd", *(f"blk.0.{each}" for each in matrices)):
        writer.add_tensor(f"{name}.weight", np.zeros((8, 8), np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def weights(path: Path) -> None:
    save_file({"a.weight": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, path, {"format": "pt"})


GOOD: dict[str, bytes | Callable[[Path], None]] = {
    "removals.jsonl": lines(HEADER, STEP, STEP | {"step": 2, "removed": ["mlp.0"], "restored": ["attention.1"]}),
    "merge.yml": YAML,
    "README.md": b"---\nlicense: mit\nlanguage: [en]\ndate: 2026-11-29\n---\n# A model\n",
    "record.json": json.dumps(RECORD).encode(),
    "journal.jsonl": lines({"of": 1}, {"row": 1}, {"row": 2}),
    "texts.txt": "one text\n\nanother text, naïve\n".encode(),
    "texts.jsonl": lines({"text": "one"}, {"text": "two"}),
    "texts.csv": b'text,id\none,1\n"two, three",2\n',
    "questions.jsonl": lines(*[{"query": "2+2?", "choices": ["3", "4"], "gold": 1}] * 2),
    "posts.csv": b'spans,text\n"[0, 1]",bad day\n[],"good, day"\n',
    "posts.jsonl": lines({"text": "bad day", "spans": [0, 1, 2]}, {"text": "x", "spans": [{"start": 0, "end": 1}]}),
    "spans-pred.txt": b"0\t[0, 1]\n1\t[]\n",
    "spans.conll": b"bad\tB\nday\tO\n\ngood\tO\n",
    "lexicon.json": BUNDLED.read_bytes(),
    "model.gguf": gguf_file,
    "model.safetensors": weights,
}
READERS: list[tuple[str, Read]] = [
    ("removals.jsonl", read_log),
    ("removals.jsonl", lambda path: gone_after(read_removals(path), None)),
    ("merge.yml", read_merge),
    ("README.md", lambda path: inherited_metadata(path.parent)),
    ("record.json", lambda path: load_record(path.parent)),
    ("record.json", read_json),
    ("journal.jsonl", lambda path: RunLog(path).resume({"of": 1})),
    ("texts.txt", read_texts),
    ("texts.jsonl", read_texts),
    ("texts.csv", read_texts),
    ("questions.jsonl", read_questions),
    ("posts.csv", lambda path: read_posts(path, known=True)),
    ("posts.jsonl", lambda path: read_posts(path, known=True, skip_bad=True)),
    ("spans-pred.txt", read_predictions),
    ("spans.conll", read_predictions),
    ("lexicon.json", load_lexicon),
    ("model.gguf", read_gguf),
    ("model.safetensors", lambda path: tensor_places(path.parent)),
    ("model.safetensors", lambda path: check_files(path.parent)),
]


def good(name: str, folder: Path) -> bytes:
    made = GOOD[name]
    if isinstance(made, bytes):
        return made
    made(folder / "whole")
    return (folder / "whole").read_bytes()


def answered(read: Read, path: Path, content: bytes) -> None:
    """It returns, or says in one sentence what is wrong."""
    path.write_bytes(content)
    told = "fine"
    try:
        read(path)
    except InputError as error:
        told = str(error)
    assert told
    assert "\n" not in told


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "put", "end"]), st.integers(0, 2**20), st.binary(min_size=1, max_size=6)),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, where, some in changes:
        place = where % (len(content) + 1)
        if kind == "flip":
            content = content[:place] + some + content[place + len(some) :]
        elif kind == "cut":
            content = content[:place] + content[place + len(some) * 3 :]
        elif kind == "put":
            content = content[:place] + some + content[place:]
        else:
            content = content[:place]
    return content


@pytest.mark.parametrize(("name", "read"), READERS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(READERS)])
def test_good_files_are_read(name: str, read: Read, tmp_path: Path) -> None:
    """The control: refusing everything would pass the other tests."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / name).write_bytes(good(name, tmp_path))
    read(tmp_path / "f" / name)


@pytest.mark.parametrize(("name", "read"), READERS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(READERS)])
@QUICK
@given(changes=edits)
def test_damaged_bytes(name: str, read: Read, tmp_path: Path, changes: list[tuple[str, int, bytes]]) -> None:
    (tmp_path / "f").mkdir(exist_ok=True)
    answered(read, tmp_path / "f" / name, damaged(good(name, tmp_path), changes))


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
STRUCTURED = [(name, read) for name, read in READERS if name.endswith((".jsonl", ".json"))]


@pytest.mark.parametrize(("name", "read"), STRUCTURED, ids=[f"{n}-{i}" for i, (n, _) in enumerate(STRUCTURED)])
@QUICK
@given(where=st.integers(0, 2**16), value=odd)
def test_values_of_another_kind(name: str, read: Read, tmp_path: Path, where: int, value: Any) -> None:
    """Well-formed JSON in which something is not what it should be."""
    (tmp_path / "f").mkdir(exist_ok=True)
    content = good(name, tmp_path).decode()
    rows = [json.loads(line) for line in (content.splitlines() if name.endswith("l") else [content])]
    row = rows[where % len(rows)]
    key = list(row)[(where // 7) % len(row)]
    row[key] = value
    answered(read, tmp_path / "f" / name, lines(*rows) if name.endswith("l") else json.dumps(rows[0]).encode())


@QUICK
@given(value=odd)
def test_a_safetensors_header_that_says_something_else(tmp_path: Path, value: Any) -> None:
    known = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a.weight": value, "b": known}).encode()
    content = struct.pack("<Q", len(header)) + header + b"0000"
    answered(lambda path: tensor_places(path.parent), tmp_path / "model.safetensors", content)


@QUICK
@given(cells=st.lists(st.lists(st.text(max_size=6), max_size=3), max_size=4))
def test_any_table(tmp_path: Path, cells: list[list[str]]) -> None:
    with (tmp_path / "t.csv").open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        csv.writer(file).writerows([["spans", "text"], *cells])
    content = (tmp_path / "t.csv").read_bytes()
    answered(lambda path: read_posts(path, known=True), tmp_path / "t.csv", content)
    answered(read_texts, tmp_path / "t.csv", content)
