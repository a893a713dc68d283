"""Two processes find what one finds, and write it once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from remodeler import processes
from tiny import tiny_model, tiny_tokenizer

COMMAND = [sys.executable, "-m", "remodeler", "prune", "model", "--remove", "3", "--texts", "texts.jsonl"]
OPTIONS = ["--samples", "10", "--length", "16", "--device", "cpu", "--batch-size", "3"]


def start(folder: Path, out: str, **several: str) -> subprocess.Popen[str]:
    command = [*COMMAND, *OPTIONS, "--out", out]
    return subprocess.Popen(command, cwd=folder, env=os.environ | several, stderr=subprocess.PIPE, text=True)


def free_port() -> str:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return str(place.getsockname()[1])


def lines(log: Path) -> list[dict[str, object]]:
    return [{**json.loads(line), "seconds": 0} for line in log.read_text().splitlines()]


def test_two_processes_write_the_same_as_one(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = [json.dumps({"text": f"{i} the cat sat on the mat and the dog on the log. " * 9}) for i in range(20)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows) + "\n")
    alone = start(tmp_path, "one")
    assert "perplexity" in alone.communicate(timeout=300)[1]
    assert alone.returncode == 0
    several = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    both = [start(tmp_path, "two", RANK=str(rank), LOCAL_RANK=str(rank), **several) for rank in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert "perplexity" in told[0]
    assert "perplexity" not in told[1], "only the first process talks"
    assert lines(tmp_path / "one" / "removals.jsonl") == lines(tmp_path / "two" / "removals.jsonl")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_process_alone_is_the_first_and_shares_with_nobody() -> None:
    assert (processes.rank(), processes.world(), processes.first()) == (0, 1, True)
    assert processes.shared({"a": 1}) == {"a": 1}
