"""Facts about how texts become windows, and which tokens are scored in them."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from remodeler.data.windows import IGNORED, Windows, mask_tokens, seq2seq, windows
from remodeler.errors import InputError

START, END, PAD = 0, 1, 2
STORIES = [
    "Once there was a cat. It sat on the mat, and the mat was warm.",
    "Zwölf Äpfel fielen vom Baum: 日本語 too.",
    "The dog ran to the park and the dog found a ball.",
    "A bird sang.",
]


def make_tokenizer(*, start: bool = True, pad: bool = True) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(STORIES, trainer)
    if start:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    names = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": "<pad>"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=16, **names)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


# --- windows


def naive_paper(stories: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> list[list[int]]:
    stream = tokenizer.backend_tokenizer.encode("\n\n".join(stories)).ids
    found: list[list[int]] = []
    while len(stream) >= length:
        found, stream = [*found, stream[:length]], stream[length:]
    return found


@pytest.mark.parametrize("length", [2, 7, 16, 33])
def test_paper_packing_is_one_string_cut_into_windows(tokenizer: PreTrainedTokenizerFast, length: int) -> None:
    made = windows(STORIES, tokenizer, length)
    assert made.ids.tolist() == naive_paper(STORIES, tokenizer, length)
    assert made.targets[:, :-1].equal(made.ids[:, 1:])
    assert (made.targets[:, -1] == IGNORED).all()
    assert made.attention is None
    assert made.tokens == len(made) * (length - 1)
    assert made.ids.dtype == made.targets.dtype == torch.int64


def test_paper_packing_has_one_start_token_and_drops_the_tail(tokenizer: PreTrainedTokenizerFast) -> None:
    made = windows(STORIES, tokenizer, 7)
    assert (made.ids == START).nonzero().tolist() == [[0, 0]]
    whole = len(tokenizer("\n\n".join(STORIES), verbose=False)["input_ids"])
    assert whole % 7
    assert made.ids.numel() == whole - whole % 7
    each = windows(STORIES, tokenizer, 7, packing="per-text")
    assert (each.ids == START).sum() == len(STORIES)  # the control: the other packing has one a text


def test_data_sets_longer_than_the_models_maximum_do_not_warn(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    windows(STORIES, tokenizer, 8)
    assert not caplog.records


def test_per_text_windows_are_the_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    made = windows(STORIES, tokenizer, 1000, packing="per-text")
    assert made.attention is not None
    for text, ids, targets, real in zip(STORIES, made.ids, made.targets, made.attention, strict=True):
        count = int(real.sum())
        assert tokenizer.decode(ids[1:count]) == text
        assert real[:count].all()
        assert (ids[count:] == PAD).all()
        assert targets[: count - 1].equal(ids[1:count])
        assert (targets[count - 1 :] == IGNORED).all()


def test_per_text_windows_are_cut_to_the_length_and_texts_of_one_token_left_out() -> None:
    bare = make_tokenizer(start=False, pad=False)
    made = windows(["a", *STORIES], bare, 5, packing="per-text")
    assert made.ids.tolist() == [bare(text)["input_ids"][:5] for text in STORIES]
    assert made.attention is None  # nothing is padded


def test_padding_is_the_end_token_where_there_is_no_padding_token_and_may_be_id_zero() -> None:
    unpadded = make_tokenizer(pad=False)
    assert windows(["a b", *STORIES], unpadded, 99, packing="per-text").ids[0, -1] == END
    unpadded.pad_token = "<s>"
    assert windows(["a b", *STORIES], unpadded, 99, packing="per-text").ids[0, -1] == START


def test_a_scored_token_that_equals_the_padding_token_stays_scored() -> None:
    unpadded = make_tokenizer(pad=False)
    made = windows(["a</s>b", *STORIES], unpadded, 99, packing="per-text")
    assert END in made.targets[0]


def test_bytes_of_per_text_windows_are_those_of_the_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    stories = [*STORIES, " leading and trailing ", "Don't , stop ."]
    made = windows(stories, tokenizer, 1000, packing="per-text")
    assert made.bytes == sum(len(text.encode()) for text in stories)


def test_bytes_of_paper_windows_leave_out_their_first_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ascii_only = [STORIES[0], STORIES[2]]
    made = windows(ascii_only, tokenizer, 6)
    firsts = sum(len(tokenizer.decode(ids[:1])) for ids in made.ids)
    assert made.bytes == len(tokenizer.decode(made.ids.flatten())) - firsts
    cut = windows([STORIES[1]] * 3, tokenizer, 2)
    exact = sum(len(piece.encode()) for piece in [STORIES[1]] * 3)
    assert abs(2 * cut.bytes - exact) < 6 * len(cut)


def test_bytes_keep_the_leading_space_of_sentencepiece_like_tokenizers() -> None:
    core = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁a": 2}, [("▁", "a")]))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    spaced = PreTrainedTokenizerFast(tokenizer_object=core)
    made = windows(["a a a a a a"], spaced, 3)
    assert made.ids.tolist() == [[2, 2, 2], [2, 2, 2]]
    assert made.bytes == len(" a a") * 2


def test_bytes_count_the_unknown_words_of_wikitext() -> None:
    marked = make_tokenizer()
    marked.add_special_tokens({"unk_token": "<unk>"})
    text = "Robert <unk> sang ."
    made = windows([text], marked, 99, packing="per-text")
    assert marked.unk_token_id in made.targets
    assert made.bytes == len(text)


def test_the_fingerprint_changes_with_a_token_and_with_the_shape(tokenizer: PreTrainedTokenizerFast) -> None:
    made = windows(STORIES, tokenizer, 8)
    assert made.fingerprint() == windows(STORIES, tokenizer, 8).fingerprint()
    other = made.ids.clone()
    other[0, 3] += 1
    assert Windows(other, made.targets).fingerprint() != made.fingerprint()
    assert Windows(made.ids.reshape(-1, 4), made.targets.reshape(-1, 4)).fingerprint() != made.fingerprint()
    assert (
        Windows(made.ids, made.targets, made.ids).fingerprint()
        != Windows(made.ids, made.targets, None, made.ids).fingerprint()
    )


def test_a_slice_of_windows_is_windows(tokenizer: PreTrainedTokenizerFast) -> None:
    made = windows(STORIES, tokenizer, 99, packing="per-text")
    part = made[1:3]
    assert len(part) == 2
    assert part.ids.equal(made.ids[1:3])
    assert part.attention is not None
    assert made.attention is not None
    assert part.attention.equal(made.attention[1:3])
    assert sum(made[row : row + 1].tokens for row in range(len(made))) == made.tokens


# --- masked and sequence-to-sequence windows


@pytest.mark.parametrize("every", [1, 3, 7, 1000])
def test_every_token_is_masked_in_exactly_one_copy(tokenizer: PreTrainedTokenizerFast, every: int) -> None:
    plain = windows(STORIES, tokenizer, 1000, packing="per-text")
    made = mask_tokens(plain, END, every, special_ids={START, PAD})
    assert made.attention is not None
    scored = made.targets != IGNORED
    assert (made.ids[scored] == END).all()
    assert not torch.isin(made.targets, torch.tensor([START, PAD])).any()
    assert scored.any(dim=1).all()
    restored = torch.where(scored, made.targets, made.ids)
    for ids in plain.ids:
        copies = (restored == ids).all(dim=1)
        assert scored[copies].sum(dim=0).tolist() == (~torch.isin(ids, torch.tensor([START, PAD]))).long().tolist()
        assert every < 1000 or (scored[copies].sum(dim=1) == 1).all()  # the paper's: one at a time


def test_special_tokens_are_masked_unless_named_and_padding_never(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = windows(STORIES, tokenizer, 1000, packing="per-text")
    assert plain.attention is not None
    assert mask_tokens(plain, END).tokens == plain.attention.sum()
    assert mask_tokens(plain, END, special_ids=[START]).tokens == plain.tokens


def test_the_decoder_predicts_the_second_half_of_each_text(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = windows(STORIES, tokenizer, 1000, packing="per-text")
    made = seq2seq(plain, start_id=PAD)
    assert made.attention is not None
    assert made.decoder is not None
    assert made.decoder.shape == made.targets.shape
    assert (made.decoder[:, 0] == PAD).all()
    assert made.decoder[:, 1:][made.targets[:, 1:] != IGNORED].equal(
        made.targets[:, :-1][made.targets[:, 1:] != IGNORED]
    )
    for text, ids, real, targets in zip(STORIES, made.ids, made.attention, made.targets, strict=True):
        first, second = ids[real.bool()], targets[targets != IGNORED]
        assert tokenizer.decode(torch.cat([first, second]), skip_special_tokens=True) == text
        assert 0 <= len(second) - len(first) <= 1


def test_unpadded_windows_are_halved_without_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = windows(STORIES, tokenizer, 8)
    made = seq2seq(plain, start_id=PAD)
    assert made.attention is None
    assert torch.cat([made.ids, made.targets], dim=1).equal(plain.ids)


def test_windows_that_can_not_be_made(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = len(tokenizer("A bird sang.")["input_ids"])
    with pytest.raises(InputError, match=f"the texts give {tokens} tokens, one window needs 2048: lower `length`"):
        windows(["A bird sang."], tokenizer, 2048)
    with pytest.raises(InputError, match="none of the 2 texts"):
        windows(["", ""], tokenizer, 8, packing="per-text")
    with pytest.raises(InputError, match="a window of 1 tokens"):
        windows(STORIES, tokenizer, 1)
    with pytest.raises(InputError, match="no texts"):
        windows([], tokenizer, 8)
    with pytest.raises(InputError, match="'tight' is not a packing"):
        windows(STORIES, tokenizer, 8, packing="tight")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 copies"):
        mask_tokens(windows(STORIES, tokenizer, 8), END, every=0)
