"""Sampling: batches, what is drawn for whom, what becomes text, and files that a kill does not harm."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import decoders

from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError
from remodeler.generation import sampling
from remodeler.generation.config import SamplingConfig
from remodeler.generation.decoding import Choice, continue_prompts
from remodeler.generation.sampling import (
    Completion,
    Sampling,
    complete,
    completions,
    ends,
    fitting_rows,
    keys,
    plan,
    read,
    written,
)
from remodeler.runs.progress import silent
from tiny import tiny_anatomy, tiny_checkpoint, tiny_tokenizer
from tiny_tokenizers import pieces

PROMPTS = ["the cat", "the dog sat on the mat and the", "on", "the log the log the log", "the mat sat"]
HOW = Sampling(10, samples=2)
TORN = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    found = tiny_checkpoint("llama")
    found.model.double()
    return found


def rows(found: list[Completion]) -> list[Any]:
    return [(each.prompt, each.sample, each.text, each.tokens, each.ended) for each in found]


def test_every_prompt_has_its_samples_in_order_and_they_differ(checkpoint: Checkpoint) -> None:
    found = complete(checkpoint, PROMPTS, HOW)
    assert [(each.prompt, each.sample) for each in found] == [(p, s) for p in range(5) for s in range(2)]
    assert all(one.text != two.text for one, two in zip(found[::2], found[1::2], strict=True))
    assert all(0 < each.tokens <= 10 and each.logprob < 0 for each in found)


@pytest.mark.parametrize("how", [HOW, Sampling(10, 0), Sampling(10, 0.8, 0.9, 3)])
def test_neither_the_batch_nor_other_prompts_change_a_completion(checkpoint: Checkpoint, how: Sampling) -> None:
    wanted = complete(checkpoint, PROMPTS, how)
    for size in (1, 2, 7):
        assert rows(complete(checkpoint, PROMPTS, how, size)) == rows(wanted)
    fewer = [each for each in wanted if each.prompt < 3]
    assert rows(complete(checkpoint, PROMPTS[:3], how)) == rows(fewer)
    shorter = complete(checkpoint, PROMPTS, replace(how, tokens=4))
    whole = [each.text.rstrip(TORN) for each in shorter]  # the limit may cut a character in two
    assert all(long.text.startswith(short) for long, short in zip(wanted, whole, strict=True))
    if how.temperature:
        assert rows(complete(checkpoint, PROMPTS, replace(how, seed=43))) != rows(wanted)


def test_random_numbers_are_a_rows_own() -> None:
    one = keys(7, [(3, 1)], 1000)
    np.testing.assert_array_equal(keys(7, [(0, 0), (3, 1)], 500)[1], one[0, :500])
    assert len(set(one[0].tolist())) == 1000
    assert abs((one / 2**64).mean()) < 0.05
    others = [(7, (3, 0)), (7, (1, 3)), (8, (3, 1)), (-7, (3, 1))]
    assert all((keys(seed, [row], 10) != one[:, :10]).all() for seed, row in others)


def test_batches_are_alike_and_lose_nobody() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 300).tolist()
    batches = plan(lengths, 3, 16, 20)
    assert sorted(row for batch in batches for row in batch) == [(p, s) for p in range(300) for s in range(3)]
    for batch in batches:
        own = [lengths[prompt] for prompt, _ in batch]
        assert len(own) <= 20
        assert max(own) - min(own) <= 16
    firsts = [lengths[batch[0][0]] for batch in batches]
    assert all(one >= two for one, two in pairwise(firsts)), "the longest first"


@pytest.mark.parametrize(("free", "rows"), [(70, 139), (16, 31), (1, 1), (0, 1), (200, 256)])
def test_rows_of_a_7b_model_follow_the_free_memory(free: int, rows: int) -> None:
    """Llama-2-7B in bfloat16 keeps half a MiB a token; 512 tokens take a quarter of a GiB, logits 1.5 MiB more."""
    assert fitting_rows(free * 2**30, 512, 2**19, 32000) == rows


def test_a_kill_at_any_line_changes_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = completions(tmp_path / "whole.jsonl", {"model": "a"}, checkpoint, PROMPTS, HOW, 3, silent)
    assert rows(wanted) == rows(complete(checkpoint, PROMPTS, HOW))
    whole = (tmp_path / "whole.jsonl").read_bytes()
    ends_of_lines = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in (0, 20, *ends_of_lines[::3], ends_of_lines[3] + 9, len(whole)):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(whole[:cut])
        assert completions(path, {"model": "a"}, checkpoint, PROMPTS, HOW, 3, silent) == wanted
        assert path.read_bytes() == whole
    monkeypatch.setattr(sampling, "continue_prompts", None)  # nothing is made again
    assert completions(tmp_path / "whole.jsonl", {"model": "a"}, checkpoint, PROMPTS, HOW, 3, silent) == wanted


@pytest.mark.parametrize(
    ("header", "prompts", "how", "differs"),
    [
        ({"model": "b"}, PROMPTS, HOW, "another model"),
        ({"model": "a"}, PROMPTS[1:], HOW, "another prompts"),
        ({"model": "a"}, PROMPTS, replace(HOW, seed=1), "another seed"),
    ],
)
def test_completions_of_another_run_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, header: dict[str, str], prompts: list[str], how: Sampling, differs: str
) -> None:
    completions(tmp_path / "c.jsonl", {"model": "a"}, checkpoint, PROMPTS, HOW, None, silent)
    before = (tmp_path / "c.jsonl").read_bytes()
    with pytest.raises(InputError, match=differs):
        completions(tmp_path / "c.jsonl", header, checkpoint, prompts, how, None, silent)
    assert (tmp_path / "c.jsonl").read_bytes() == before


def test_progress_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    heard: list[tuple[float, str]] = []
    completions(tmp_path / "c.jsonl", {}, checkpoint, PROMPTS, HOW, 4, lambda *told: heard.append(told))
    assert heard == [(0.4, "4 of 10"), (0.8, "8 of 10"), (1.0, "10 of 10")]
    first, *lines = (json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines())
    assert first["samples"] == 2
    assert Completion(**lines[0]).tokens <= 10
    assert lines[0].keys() == asdict(Completion(0, 0, "", 0, False, 0.0)).keys()


# Texts ----------------------------------------------------------------------------------------------------------------


def test_a_completion_keeps_the_space_in_front_of_it() -> None:
    tokenizer = pieces(size=400)
    core = tokenizer.backend_tokenizer  # Llama's: a text's own first space goes
    core.decoder = decoders.Sequence([core.decoder, decoders.Strip(" ", 1, 0)])
    whole = list(tokenizer("the cat sat on the mat", add_special_tokens=False)["input_ids"])
    for cut in range(1, len(whole)):
        prompt, rest = whole[:cut], whole[cut:]
        assert tokenizer.decode(prompt) + written(tokenizer, prompt, rest) == tokenizer.decode(whole)
    lost = [tokenizer.decode(whole[:cut]) + tokenizer.decode(whole[cut:]) for cut in range(1, len(whole))]
    assert any(each != tokenizer.decode(whole) for each in lost), "the control: alone, a space is lost"


def test_a_prompt_does_not_end_the_text_it_starts() -> None:
    tokenizer = pieces()
    checkpoint = Checkpoint(tiny_anatomy("llama", vocab_size=len(tokenizer)), tokenizer, "m")
    assert tokenizer("the cat")["input_ids"][-1] == tokenizer.eos_token_id
    ids, empty = read(checkpoint, ["the cat", ""], HOW)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
    assert empty == [tokenizer.bos_token_id]


def test_ends_are_those_of_the_tokenizer_and_of_the_model(checkpoint: Checkpoint) -> None:
    assert ends(checkpoint) == [2]
    other = tiny_checkpoint("llama")
    other.model.generation_config.eos_token_id = [7, 2]
    assert sorted(ends(other)) == [2, 7]
    free = complete(checkpoint, PROMPTS, Sampling(40, 0))
    prompt = read(checkpoint, PROMPTS[:1], HOW)
    came = continue_prompts(checkpoint.model, prompt, Choice(0), keys(0, [(0, 0)], 6), [])[0]
    other.model.double().generation_config.eos_token_id = came.ids[5]
    found = complete(other, PROMPTS, Sampling(40, 0))[0]
    assert found.ended
    assert found.tokens <= 6
    assert free[0].text.startswith(found.text.rstrip(TORN))


def test_chat_prompts_go_through_the_template() -> None:
    checkpoint = tiny_checkpoint("llama")
    with pytest.raises(InputError, match="no chat template"):
        read(checkpoint, PROMPTS, Sampling(5, chat=True))
    checkpoint.tokenizer.chat_template = "{% for m in messages %}<s>{{ m.content }} on{% endfor %}"
    row = read(checkpoint, ["the cat"], Sampling(5, chat=True))[0]
    assert checkpoint.tokenizer.decode(row) == "<s>the cat on"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be >= 1"),
        ({"completions": 0}, "`completions` must be >= 1"),
        ({"temperature": -1}, "`temperature` must be >= 0"),
        ({"top_p": 0}, "`top_p` must be > 0 and <= 1"),
        ({"batch_size": 0}, "`batch_size` must be >= 1"),
        ({"temperature": 0, "completions": 2}, "would all be the same"),
    ],
)
def test_options_that_make_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SamplingConfig(**given)


def test_a_prompt_leaves_room_for_its_completion(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"prompt 2 has .* tokens and 60 are to follow"):
        complete(checkpoint, PROMPTS, Sampling(60))


def test_options_become_a_sampling() -> None:
    given = SamplingConfig(max_new_tokens=3, temperature=0.5, top_p=0.9, completions=2, chat=True)
    assert given.sampling(7) == Sampling(3, 0.5, 0.9, 2, True, 7)


def test_models_and_tokenizers_that_complete_nothing(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="not a causal language model"):
        complete(tiny_checkpoint("bert"), PROMPTS, HOW)
    with pytest.raises(InputError, match="no prompts"):
        complete(checkpoint, [], HOW)
    small = Checkpoint(tiny_anatomy("llama", vocab_size=30), tiny_tokenizer(), "small")
    with pytest.raises(InputError, match="tokens that the model doesn't"):
        complete(small, PROMPTS, HOW)
