"""Complete prompts: which rows go together, what is drawn for each, and completions on disk as they come.

The random numbers of a completion come from a counter-based generator (Philox, Salmon et al. 2011) keyed by the seed,
the number of the prompt and that of the sample, one for each token: neither the size of a batch nor its order nor the
other prompts change what is drawn, and two models draw with the same numbers. What may differ between two batch sizes
is the last bit of a matrix product, and so a token where two are as good as equally near.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.sizes import kv_bytes_per_token
from remodeler.data.chat_templates import asked_in_chat
from remodeler.data.windows import tokenizer_errors
from remodeler.errors import InputError, option
from remodeler.generation.decoding import Choice, Continued, continue_prompts
from remodeler.model.logprobs import vocabulary
from remodeler.model.minibatches import device_of
from remodeler.model.streaming import room
from remodeler.runs.job import enough_memory
from remodeler.runs.progress import Progress
from remodeler.runs.records import digest
from remodeler.runs.runlog import RunLog

ON_CPU, MOST = 64, 256
"""Rows of a batch on a CPU, and the most on a GPU."""
SHARE_OF_FREE = 0.5
"""Of a GPU's free memory, for the cache and the logits of a batch."""
TRIED = 8
"""Steps that say how long a run takes."""
COPIES = 12
"""Of the logits of a step, in float32: probabilities, what sorting takes, and 64-bit numbers for the waiting times."""

Row = tuple[int, int]
"""A prompt's number and a sample's, both from 0."""


@dataclass(frozen=True)
class Sampling:
    """How prompts are completed; names and order are those of the first line of a file of completions.

    :class:`~remodeler.generation.config.SamplingConfig` checks the options that it is made of.
    """

    tokens: int = 64
    """Tokens per completion, at most; a token that ends a text ends it earlier."""
    temperature: float = 1.0
    """0 = greedy."""
    top_p: float = 1.0
    samples: int = 1
    """Completions per prompt."""
    chat: bool = False
    """Send prompts as user turns through the chat template."""
    seed: int = 42

    @property
    def choice(self) -> Choice:
        """How a token is chosen."""
        return Choice(self.temperature, self.top_p)


@dataclass(frozen=True)
class Completion:
    """What a model wrote."""

    prompt: int
    """Number of the prompt, from 0."""
    sample: int
    text: str
    tokens: int
    ended: bool
    """By itself, not by the limit."""
    logprob: float
    """Natural log of its probability, the token that ended it included, at temperature 1."""


def complete(
    checkpoint: Checkpoint, prompts: Sequence[str], how: Sampling, size: int | None = None
) -> list[Completion]:
    """Complete prompts, in their order, the samples of a prompt one after the other.

    Raises:
        InputError: for prompts that can't be completed.
    """
    found = [each for batch in completed(checkpoint, read(checkpoint, prompts, how), how, size, ()) for each in batch]
    return sorted(found, key=_row)


def completions(
    path: Path,
    header: dict[str, Any],
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    how: Sampling,
    size: int | None,
    progress: Progress,
) -> list[Completion]:
    """The same, written to a file of JSON lines batch by batch; what is there already is not made again.

    Args:
        path: the file; its first line says what it belongs to.
        header: what the caller knows a run by, as the fingerprint of the model.
        checkpoint: the model.
        prompts: what to complete.
        how: settings.
        size: rows a batch; by default what the device is good for.
        progress: told the share done.

    Raises:
        InputError: also when the file is of another run.
    """
    rows = read(checkpoint, prompts, how)  # what can't be completed leaves no file
    known = {"prompts": digest(prompts), **asdict(how), **header}
    log = RunLog(path)
    found = [Completion(**line) for line in log.resume(known)]
    wanted, done = len(prompts) * how.samples, set(map(_row, found))
    if len(done) < wanted:
        for batch in completed(checkpoint, rows, how, size, done):
            new = [each for each in batch if _row(each) not in done]
            log.append(list(map(asdict, new)))
            found += new
            progress(len(found) / wanted, f"{len(found):,} of {wanted:,}")
    return sorted(found, key=_row)


def _row(each: Completion) -> Row:
    return each.prompt, each.sample


# Prompts --------------------------------------------------------------------------------------------------------------


def read(checkpoint: Checkpoint, prompts: Sequence[str], how: Sampling) -> list[list[int]]:
    """Token ids of every prompt.

    Raises:
        InputError: for a model that generates no text, and for a prompt that leaves no room for a completion.
    """
    if checkpoint.anatomy.family.task != "causal":
        raise InputError(f"{checkpoint.name} is not a causal language model: only those complete a prompt")
    if not prompts:
        raise InputError("no prompts were given, at least one is needed: choose another file")
    rows = apply_template(checkpoint, prompts) if how.chat else [prompt_ids(checkpoint, prompt) for prompt in prompts]
    for number, row in enumerate(rows, 1):
        if checkpoint.context and len(row) + how.tokens > checkpoint.context:
            raise InputError(
                f"prompt {number} has {len(row)} tokens and {how.tokens} are to follow, {checkpoint.name} reads at "
                f"most {checkpoint.context}: lower {option('max_new_tokens')}, or give shorter prompts"
            )
        if max(row) >= vocabulary(checkpoint.model):
            raise InputError(
                f"the tokenizer of {checkpoint.name} knows tokens that the model doesn't: get the complete checkpoint"
            )
    return rows


def prompt_ids(checkpoint: Checkpoint, prompt: str) -> list[int]:
    """A prompt as it starts a text, without the token with which some tokenizers end one."""
    tokenizer = checkpoint.tokenizer
    with tokenizer_errors(tokenizer):
        ids = list(tokenizer(prompt, verbose=False)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(str(tokenizer.eos_token)):
        ids.pop()
    first = next((each for each in (tokenizer.bos_token_id, tokenizer.eos_token_id) if each is not None), None)
    if not ids and first is None:
        raise InputError(f"a prompt is empty, and {checkpoint.name} has no token that starts a text: leave it out")
    return ids or [int(first or 0)]


def apply_template(checkpoint: Checkpoint, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts as turns of a user, up to where the answer begins; needs a tokenizer with a template."""
    texts = [asked_in_chat(checkpoint.tokenizer, checkpoint.name, prompt) for prompt in prompts]
    with tokenizer_errors(checkpoint.tokenizer):
        found = checkpoint.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [list(row) for row in found]


def ends(checkpoint: Checkpoint) -> list[int]:
    """Tokens that end a text: the tokenizer's, and those that the model is generated with."""
    named = getattr(checkpoint.model.generation_config, "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return [int(each) for each in {checkpoint.tokenizer.eos_token_id, *several} if each is not None]


# Batches --------------------------------------------------------------------------------------------------------------


def plan(lengths: Sequence[int], samples: int, new: int, size: int) -> list[list[Row]]:
    """Rows that go together: of similar lengths, the longest first, so that memory fails at once or not at all.

    A batch takes as many steps as its prompts differ in length, and ``new``: they differ by no more than that.
    """
    order = sorted(range(len(lengths)), key=lambda prompt: -lengths[prompt])
    batches: list[list[Row]] = []
    for row in ((prompt, sample) for prompt in order for sample in range(samples)):
        fits = batches and len(batches[-1]) < size and lengths[batches[-1][0][0]] - lengths[row[0]] <= new
        if not fits:
            batches.append([])
        batches[-1].append(row)
    return batches


def batch_size(checkpoint: Checkpoint, longest: int) -> int:
    """Rows a batch, when the user does not say."""
    device = device_of(checkpoint.model)
    if device.type == "cpu":
        return ON_CPU
    return fitting_rows(room(device), longest, kv_bytes_per_token(checkpoint), vocabulary(checkpoint.model))


def fitting_rows(free: int, longest: int, token_bytes: int, vocabulary: int) -> int:
    """Rows whose cache of so many tokens, and whose logits, fit into a part of the free bytes."""
    each = longest * token_bytes + COPIES * 4 * vocabulary
    return max(1, min(MOST, int(free * SHARE_OF_FREE) // each))


def keys(seed: int, rows: Sequence[Row], new: int) -> np.ndarray:
    """What is drawn with: [rows, new] int64, a row and its first numbers whatever else there is."""
    found = np.empty((len(rows), new), dtype=np.int64)
    for place, (prompt, sample) in enumerate(rows):
        key = np.array([seed % 2**64, prompt << 32 | sample], dtype=np.uint64)
        found[place] = np.random.Philox(key=key).random_raw(new).view(np.int64)
    return found


def expected_seconds(
    checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], how: Sampling, size: int | None
) -> float:
    """About how long it takes, if no text ends early: by some steps of the first batch, which has the longest rows."""
    lengths = [len(prompt) for prompt in prompts]
    planned = plan(lengths, how.samples, how.tokens, size or batch_size(checkpoint, max(lengths) + how.tokens))
    some, given = min(TRIED, how.tokens), [prompts[prompt] for prompt, _ in planned[0]]
    start = time.perf_counter()
    with enough_memory(option("batch_size", 1)):
        continue_prompts(checkpoint.model, given, how.choice, keys(how.seed, planned[0], some), [])
    step = (time.perf_counter() - start) / (_steps(lengths, planned[0], some))
    return step * sum(_steps(lengths, rows, how.tokens) for rows in planned)


def _steps(lengths: Sequence[int], rows: Sequence[Row], new: int) -> int:
    return lengths[rows[0][0]] - lengths[rows[-1][0]] + new


def completed(
    checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], how: Sampling, size: int | None, done: Iterable[Row]
) -> Iterator[list[Completion]]:
    """Batch by batch, but for those of which every row is done."""
    stops, known = ends(checkpoint), set(done)
    lengths = [len(prompt) for prompt in prompts]
    for rows in plan(lengths, how.samples, how.tokens, size or batch_size(checkpoint, max(lengths) + how.tokens)):
        if known.issuperset(rows):
            continue
        given = [prompts[prompt] for prompt, _ in rows]
        with enough_memory(option("batch_size", 1)):
            made = continue_prompts(checkpoint.model, given, how.choice, keys(how.seed, rows, how.tokens), stops)
        yield [
            _completion(checkpoint.tokenizer, row, ids, each) for row, ids, each in zip(rows, given, made, strict=True)
        ]


def _completion(tokenizer: PreTrainedTokenizerBase, row: Row, prompt: Sequence[int], made: Continued) -> Completion:
    text = written(tokenizer, prompt, made.ids)
    return Completion(*row, text, len(made.ids), made.ended, made.logprob)


def written(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text of tokens that follow a prompt; alone, SentencePiece would take the space in front of them."""
    before, whole = (_text(tokenizer, each) for each in (prompt, [*prompt, *ids]))
    return whole[len(before) :] if whole.startswith(before) else _text(tokenizer, ids)


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
