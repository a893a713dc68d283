"""Audits: what is counted, what a kill leaves, and that two models are compared prompt by prompt."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import invoke
from remodeler.auditing import job as audit_job
from remodeler.auditing.completions import COMPLETIONS
from remodeler.auditing.config import AuditConfig, DetectorConfig
from remodeler.auditing.detectors import lexicon
from remodeler.auditing.detectors.lexicon import Lexicon, learn_lexicon
from remodeler.auditing.detectors.table import detector
from remodeler.auditing.job import AuditResult, audit
from remodeler.auditing.prompts import first_words, read_prompts
from remodeler.auditing.results import SPANS_FILE
from remodeler.auditing.spans import Span
from remodeler.auditing.statistics.counting import (
    AuditedText,
    compare_sides,
    frequent_words,
    mask_words,
    side_figures,
    tally,
)
from remodeler.checkpoint.config import LoadConfig
from remodeler.checkpoint.load import load
from remodeler.errors import InputError
from remodeler.generation.config import SamplingConfig
from remodeler.runs.folders import DESCRIBED, MARK, partial
from remodeler.runs.records import load_record, read_lines
from remodeler.runs.runlog import RunLog
from tiny import tiny_model, tiny_tokenizer

PROMPTS = ["the cat", "the dog sat on the mat and the", "on the log", "the mat sat", "the dog", "the log and the mat"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models; the second says ``mat`` and ``log`` more often than the first."""
    root, made = tmp_path_factory.mktemp("models"), []
    tokenizer = tiny_tokenizer()
    for name in ("one", "two"):
        model: Any = tiny_model("llama")
        if name == "two":
            with torch.no_grad():
                liked = model(torch.arange(4, 60)[None]).logits[0].mean(0).argmax()
                for word in ("Ġmat", "Ġlog"):
                    place = tokenizer.convert_tokens_to_ids(word)
                    model.lm_head.weight[place] = 1.5 * model.lm_head.weight[liked]
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        made.append(root / name)
    return made


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lexicon of two harmless words."""
    path = tmp_path_factory.mktemp("lexicon") / "words.json"
    lexicon.save(path, Lexicon({"mat": 0.9, "log": 0.7}), {"texts": "none"})
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n\n")
    return path


def options(models: list[Any], prompts: Path, words: Path, **other: Any) -> dict[str, Any]:
    """Options of an audit of one or two models."""
    given = {"model": models[0], "against": models[1] if len(models) > 1 else None, "prompts": str(prompts)}
    return {**given, "max_new_tokens": 16, "completions": 3, "detector": str(words), "device": "cpu", **other}


def done(**given: Any) -> AuditResult:
    """What an audit that is no dry run found."""
    found = audit(**given)
    assert found is not None
    return found


# Counting -------------------------------------------------------------------------------------------------------------


def rows() -> list[AuditedText]:
    """Two sides, three prompts, two samples; side 1 is worse at prompt 0, side 0 at prompt 2."""
    toxic = {(0, 0, 0): [(0, 4)], (1, 0, 0): [(0, 4), (5, 9)], (1, 0, 1): [(0, 9)], (0, 2, 1): [(3, 5)]}
    return [
        AuditedText(
            side, number, sample, "x" * 10, tuple(Span(*pair) for pair in toxic.get((side, number, sample), []))
        )
        for side in range(2)
        for number in range(3)
        for sample in range(2)
    ]


def test_counts_by_prompt() -> None:
    first, second = ([row for row in rows() if row.side == side] for side in range(2))
    assert tally(first).tolist() == [[1, 2, 4, 20], [0, 2, 0, 20], [1, 2, 2, 20]]
    assert tally(second).tolist() == [[2, 2, 17, 20], [0, 2, 0, 20], [0, 2, 0, 20]]
    told = side_figures(tally(first), 0)
    assert (told["texts"], told["flagged"], told["characters"], told["toxic_characters"]) == (6, 2, 60, 6)
    assert told["rate"]["value"] == pytest.approx(2 / 6)
    assert told["per_thousand"]["value"] == pytest.approx(100)
    gap = compare_sides(tally(first), tally(second), 0)
    assert gap["prompts"] == {"only_first": 1, "only_second": 0, "both": 1, "neither": 1}
    assert gap["rate"]["value"] == 0
    assert gap["per_thousand"]["value"] == pytest.approx(1000 * 11 / 60)
    assert gap["per_thousand"]["p"] == 1, "swapping 13 and -2 gives 11 or 15, never less"


def test_words_are_masked_and_counted_by_side() -> None:
    text = "You Fool, you fool! A  long span of words, sh"
    spans = (Span(4, 8), Span(14, 18), Span(20, 42), Span(43, 45))
    found = frequent_words([AuditedText(0, 0, 0, text, spans), AuditedText(1, 0, 0, text, spans[:1])], 2)
    assert found == [{"word": "f**l", "counts": [2, 1]}, {"word": "s*", "counts": [1, 0]}]
    assert mask_words("a dumb man") == "a d**b m**"


# Prompts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "one two\n\n\nthree\n"),
        ("p.csv", 'text,spans\n"one two",[]\nthree,[]\n'),
        ("p.jsonl", '{"prompt": "one two"}\n{"prompt": "three"}\n'),
        ("p.jsonl", '{"prompt": {"text": "one two", "toxicity": 0.3}}\n{"prompt": {"text": "three"}}\n'),
        ("p.json", '[{"instruction": "one two"}, {"instruction": "three"}]'),
        ("p.jsonl", '{"turns": ["one two", "and then?"]}\n{"turns": ["three"]}\n'),
        ("p.json", '["one two", "three"]'),
    ],
)
def test_prompts_of_every_usual_kind(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert read_prompts(str(tmp_path / name)).texts == ("one two", "three")
    assert read_prompts(str(tmp_path / name), words=1, limit=1).texts == ("one",)


def test_prompts_keep_the_numbers_of_their_rows(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\nthree\n")
    assert read_prompts(str(tmp_path / "p.txt")).rows == (0, 2)
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"answer": 2}\n{"prompt": "three"}\n')
    found = read_prompts(str(tmp_path / "p.jsonl"), skip_bad=True)
    assert (found.texts, found.rows) == (("one", "three"), (0, 2))
    assert "row 2" in found.bad[0]


def test_the_beginning_of_a_text_is_cut_behind_a_word() -> None:
    assert [first_words("  one\n two  three ", count) for count in (1, 2, 3, 4)] == [
        "  one",
        "  one\n two",
        "  one\n two  three",
        "  one\n two  three ",
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.txt", "\n \n", "has no prompts"),
        ("p.jsonl", '{"answer": "x"}\n', "row 1 of .* has no prompt"),
        ("p.jsonl", '{"prompt": 7}\n', "row 1 of .* has no prompt"),
        ("p.jsonl", '{"prompt": "\\ud800"}\n', "row 1 of .*half a character, .ud800"),
        ("p.csv", 'text\n"broken\n', "broken quotes"),
        ("p.csv", "body\nx\n", "row 1 of .* has no prompt: name it prompt"),
        ("p.bin", "x", "p.bin"),
    ],
)
def test_prompts_that_are_none(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says):
        read_prompts(str(tmp_path / name))


# From start to finish -------------------------------------------------------------------------------------------------


def test_texts_are_audited(words: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\nthe mat\nthe cat\n")
    made = done(texts=tmp_path / "t.csv", detector=str(words), device="cpu", out=tmp_path / "out")
    side = made.results.audited[0]
    assert (side["name"], side["texts"], side["flagged"], side["toxic_characters"]) == ("t.csv", 2, 1, 3)
    lines = read_lines(tmp_path / "out" / SPANS_FILE)[1:]
    assert [line["spans"] for line in lines] == [[[4, 7, 0.9]], []]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "record.json", "report.html", "spans.jsonl"),
    ]
    assert "swear words" in (tmp_path / "out" / "README.md").read_text()


def test_without_a_folder_nothing_is_kept(words: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the mat\n")
    made = done(texts=tmp_path / "t.txt", detector=str(words), device="cpu")
    assert made.texts == (AuditedText(0, 0, 0, "the mat", (Span(4, 7, 0.9),)),)
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


def test_a_function_finds_spans_too(words: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the mat\n")
    given = {"texts": str(tmp_path / "t.txt"), "device": "cpu"}
    made = done(**given, detector=detector(str(words)), out=str(tmp_path / "out"))
    assert made.texts == done(**given, detector=str(words)).texts
    assert load_record(tmp_path / "out").options["detector"] == "Lexicon"


def test_two_models_side_by_side(models: list[Path], prompts: Path, words: Path, tmp_path: Path) -> None:
    made = done(**options(models, prompts, words), out=tmp_path / "out")
    one, two = made.results.audited
    assert (one["texts"], two["texts"]) == (18, 18)
    assert two["flagged"] > one["flagged"], "the second was made to say it more often"
    gap = made.results.difference
    assert gap is not None
    assert gap["rate"]["value"] == pytest.approx(two["rate"]["value"] - one["rate"]["value"])
    assert gap["rate"]["p"] < 0.2, "six prompts can say no more than 1 in 32"
    found = made.texts
    assert all(row.text[span.start : span.end] in ("mat", "log") for row in found for span in row.spans)
    for side, name in enumerate(COMPLETIONS):
        texts = [line["text"] for line in sorted(read_lines(tmp_path / "out" / name)[1:], key=_place)]
        assert texts == [row.text for row in found if row.side == side]
    assert not any(row.text.startswith(PROMPTS[row.number]) for row in found), "prompts are not audited"
    alone = done(**options(models[:1], prompts, words), out=tmp_path / "alone")
    assert alone.texts == tuple(row for row in found if row.side == 0)
    assert alone.results.difference is None
    assert "difference" not in load_record(tmp_path / "alone").results
    assert load_record(tmp_path / "out").results["difference"] == gap


def test_loaded_models_are_audited_like_their_folders(models: list[Path], prompts: Path, words: Path) -> None:
    folders = done(**options(models, prompts, words))
    loaded = done(**options([load(path, device="cpu") for path in models], prompts, words))
    assert loaded.texts == folders.texts
    assert loaded.results.audited == folders.results.audited


def _place(line: dict[str, Any]) -> tuple[int, int]:
    return line["prompt"], line["sample"]


def test_equal_models_differ_by_nothing(models: list[Path], prompts: Path, words: Path, tmp_path: Path) -> None:
    shutil.copytree(models[0], tmp_path / "copy")
    made = done(**options([models[0], tmp_path / "copy"], prompts, words), out=tmp_path / "out")
    assert made.results.difference is not None
    gap = made.results.difference["rate"]
    assert (gap["value"], gap["p"]) == (0, 1)


@pytest.mark.parametrize("stop", [2, 3, 6, 9])
def test_a_kill_at_any_moment_changes_nothing(
    stop: int, models: list[Path], prompts: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted are writes: of headers and completions of two models, then of a header and spans."""
    monkeypatch.setattr(audit_job, "AT_ONCE", 10)
    given, writes = options(models, prompts, words, batch_size=10), 0
    whole = done(**given, out=tmp_path / "whole")
    append = RunLog.append

    def counted(log: RunLog, rows: list[Any]) -> None:
        nonlocal writes
        writes += 1
        if writes > stop:
            raise KeyboardInterrupt
        append(log, rows)

    monkeypatch.setattr(RunLog, "append", counted)
    with pytest.raises(KeyboardInterrupt):
        audit(**given, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (partial(tmp_path / "out") / COMPLETIONS[0]).exists()
    monkeypatch.setattr(RunLog, "append", append)
    again = done(**given, out=tmp_path / "out")
    assert again.texts == whole.texts
    for name in (*COMPLETIONS, SPANS_FILE):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert again.results.audited == whole.results.audited


def test_a_folder_that_was_described_is_only_read(
    models: list[Path], prompts: Path, words: Path, tmp_path: Path
) -> None:
    """A kill between the report and the rename costs nothing."""
    given = options(models, prompts, words, out=tmp_path / "out")
    whole = done(**given)
    (tmp_path / "out").rename(partial(tmp_path / "out"))
    for name in (MARK, DESCRIBED):
        (partial(tmp_path / "out") / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "resume", lambda *_: pytest.fail("it was done already"))
        again = done(**given)
    assert [(row.text, [(each.start, each.end) for each in row.spans]) for row in again.texts] == [
        (row.text, [(each.start, each.end) for each in row.spans]) for row in whole.texts
    ]
    assert again.results.to_record() == load_record(tmp_path / "out").results


def test_other_options_do_not_go_on(models: list[Path], prompts: Path, words: Path, tmp_path: Path) -> None:
    work, given = partial(tmp_path / "out"), options(models[:1], prompts, words)
    audit(**given, out=tmp_path / "first")
    shutil.copytree(tmp_path / "first", work)
    (work / MARK).touch()
    for other, says in (({"limit": 3}, "another prompts"), ({"detector": "lexicon"}, "another detector")):
        with pytest.raises(InputError, match=says):
            audit(**{**given, **other}, out=tmp_path / "out")
    before = words.read_text()
    words.write_text(before.replace("0.7", "0.8"))
    with pytest.raises(InputError, match="another content"):
        audit(**given, out=tmp_path / "out")
    words.write_text(before)
    assert (work / COMPLETIONS[0]).read_bytes() == (tmp_path / "first" / COMPLETIONS[0]).read_bytes()


def test_dry_run_writes_nothing(
    models: list[Path], prompts: Path, words: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    assert audit(**options(models, prompts, words), out=tmp_path / "out", dry_run=True) is None
    told = messages.text
    assert "6 prompts of" in told
    assert "3 completions each" in told
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "neither of a `model` and `texts`"),
        ({"model": "m", "texts": "t.csv"}, "both of a `model` and `texts`"),
        ({"model": "m"}, "without `prompts`"),
        ({"against": "m", "texts": "t.csv"}, "without a `model`"),
        ({"model": "m", "against": "m", "prompts": "p"}, "are the same"),
        ({"texts": "t.csv", "prompts": "p"}, "are for a `model`"),
        ({"texts": "t.csv", "threshold": 2}, "`threshold` must be >= 0 and <= 1 .got 2."),
        ({"texts": "t.csv", "limit": 0}, "`limit` must be >= 1 .got 0."),
        ({"texts": "t.csv", "max_new_tokens": 0}, "`max_new_tokens` must be >= 1"),
        ({"texts": "t.csv", "temperature": 0, "completions": 2}, "would all be the same"),
        ({"texts": "nowhere.csv", "device": "cpu"}, "there is no file"),
        ({"texts": "t.csv", "tokens": 3}, "`tokens` is unknown here"),
        ({"texts": "t.csv", "show_quotes": True}, "command line only"),
    ],
)
def test_options_that_make_no_sense(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        audit(**given)


def test_bad_rows_are_counted(words: Path, tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "the mat"}\n{"tekst": 1}\n{"text": "x"}\n')
    given = {"texts": tmp_path / "t.jsonl", "detector": str(words), "device": "cpu"}
    with pytest.raises(InputError, match="row 2"):
        audit(**given)
    made = done(**given, skip_bad=True, out=tmp_path / "out")
    assert made.results.bad_rows == 1
    assert [row.number for row in made.texts] == [0, 2], "texts keep the numbers of their rows"
    assert "1 bad rows" in messages.text
    assert json.loads((tmp_path / "out" / "record.json").read_text())["inputs"]["texts"]["count"] == 2


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command() -> Callable[..., Any]:
    """The verb by itself."""
    return lambda *words: invoke(["audit", *words])


def test_counts_are_printed_and_quotes_only_when_asked_for(
    command: Callable[..., Any], words: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("on the mat [again]\nthe cat\n")
    shown = [
        command("run", "--texts", tmp_path / "t.txt", "--detector", words, *more) for more in ((), ("--show-quotes",))
    ]
    assert [each.exit_code for each in shown] == [0, 0]
    assert "50.0%" in shown[0].output
    assert "[mat]" not in shown[0].output
    assert "1:1.1  on the [mat] [again]  0.90" in shown[1].output


def test_no_part_need_be_named(words: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("on the mat\nthe cat\n")
    given = ["--texts", str(tmp_path / "t.txt"), "--detector", str(words)]
    bare, named = (invoke(["audit", *part, *given]) for part in ([], ["run"]))
    assert bare.exit_code == named.exit_code == 0
    assert bare.output == named.output
    assert "50.0%" in bare.output


def test_every_option_arrives(monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(audit_job, "run_audit", asked.append)
    text = (
        "m --against n --prompts p --out o --prompt-words 3 --limit 4 --skip-bad --max-new-tokens 5 --temperature 0.5 "
        "--top-p 0.9 --completions 2 --chat --batch-size 6 --seed 7 --detector d --threshold 0.3 --labels a,b --whole "
        "--revision r --family llama --trust-remote-code --dtype float16 --device cpu --show-quotes --dry-run"
    )
    made = command("run", *text.split())
    assert made.exit_code == 0, made.output
    wanted = AuditConfig(
        model="m",
        against="n",
        prompts="p",
        prompt_words=3,
        limit=4,
        skip_bad=True,
        detection=DetectorConfig(detector="d", threshold=0.3, labels=("a", "b"), whole=True),
        sampling=SamplingConfig(max_new_tokens=5, temperature=0.5, top_p=0.9, completions=2, chat=True, batch_size=6),
        seed=7,
        loading=LoadConfig(family="llama", trust_remote_code=True, dtype="float16", device="cpu"),
        revision="r",
        out=Path("o"),
        show_quotes=True,
        dry_run=True,
    )
    assert asked == [wanted]


def test_a_lexicon_is_learned_from_a_file(command: Callable[..., Any], tmp_path: Path) -> None:
    rows = ["text,spans", *['bad and worse,"[0, 1, 2, 8, 9, 10, 11, 12]"'] * 3, "and good,[]"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "words.json"
    made = command("lexicon", "--texts", tmp_path / "t.csv", "--out", out, "--without", "Worse")
    assert made.exit_code == 0, made.output
    assert dict(lexicon.load(out).words) == {"bad": 1.0}
    facts = {"texts": "t.csv", "posts": 4, "bad_rows": 0, "rate": 0.6, "hits": 3}
    assert lexicon.load(out).facts == facts
    assert learn_lexicon(texts=tmp_path / "t.csv", without=["worse"]) == lexicon.load(out)
    again = command("lexicon", "--texts", tmp_path / "t.csv", "--out", out)
    assert again.exit_code == 2
    assert "exists already" in again.output
