"""Two processes find what one finds, and write it once."""

import json
from pathlib import Path

from forks import COMMAND, pair, python, said
from remodeler.runs import processes
from tiny import tiny_model, tiny_tokenizer

GIVEN = ["prune", "model", "--remove", "3", "--texts", "texts.jsonl", "--samples", "10", "--length", "16"]
GIVEN += ["--device", "cpu", "--batch-size", "3", "--out"]


def lines(log: Path) -> list[dict[str, object]]:
    return [{**json.loads(line), "seconds": 0} for line in log.read_text().splitlines()]


def test_two_processes_write_the_same_as_one(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = [json.dumps({"text": f"{i} the cat sat on the mat and the dog on the log. " * 9}) for i in range(20)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows) + "\n")
    assert "perplexity" in said(python(COMMAND, *GIVEN, "one", cwd=tmp_path))[1]
    told = [said(process)[1] for process in pair(COMMAND, *GIVEN, "two", cwd=tmp_path)]
    assert "perplexity" in told[0]
    assert "perplexity" not in told[1], "only the first process talks"
    assert lines(tmp_path / "one" / "removals.jsonl") == lines(tmp_path / "two" / "removals.jsonl")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_process_alone_is_the_first_and_shares_with_nobody() -> None:
    assert (processes.rank(), processes.world(), processes.is_first()) == (0, 1, True)
    assert processes.from_first({"a": 1}) == {"a": 1}
