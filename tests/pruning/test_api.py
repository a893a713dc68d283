"""Pruning from Python gives what the command gives, and leaves the model as it was."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import SMALL, run
from remodeler.checkpoint.load import fingerprint, load
from remodeler.errors import InputError
from remodeler.pruning.api import cut, prune
from remodeler.runs.records import load_record
from remodeler.runs.removals import REMOVALS_FILE, read_log


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def asked(texts: Path) -> dict[str, object]:
    return {"texts": str(texts), "samples": 8, "length": 16, "device": "cpu"}


def test_python_and_the_command_write_the_same(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["prune", model, "--out", tmp_path / "command", "--remove", 2, "--texts", texts, *SMALL]
    assert run(monkeypatch, *words) == 0
    found = prune(model, remove=2, **asked(texts))
    small = found.save(tmp_path / "python")
    assert weights(tmp_path / "python") == weights(tmp_path / "command")
    assert [str(block) for step in read_log(tmp_path / "command" / REMOVALS_FILE)[1] for block in step.removed] == list(
        map(str, found.removed)
    )
    assert small.anatomy.parameters() == found.inputs.checkpoint.anatomy.parameters(found.removed)
    assert found.perplexity == found.steps[-1].perplexity
    for name in ("record.json", "report.html", "README.md", REMOVALS_FILE):
        assert (tmp_path / "python" / name).exists()


def test_a_loaded_model_is_left_as_it_was_and_can_be_cut_to_any_size(model: Path, texts: Path, tmp_path: Path) -> None:
    loaded = load(model, device="cpu")
    before = fingerprint(loaded.model)
    found = prune(loaded, remove=3, **asked(texts))
    less = cut(found, remove=1)
    assert less.removed == found.removed[:1]
    less.save(tmp_path / "less")
    assert fingerprint(loaded.model) == before
    alone = prune(loaded, remove=1, **asked(texts))
    alone.save(tmp_path / "alone")
    assert weights(tmp_path / "less") == weights(tmp_path / "alone")


def test_heads_and_channels_too(model: Path, texts: Path, tmp_path: Path) -> None:
    given = {"method": "hybrid-grained", "ratio": 0.1, **asked(texts)}
    found = prune(model, **given)
    found.save(tmp_path / "later")
    written = prune(model, tmp_path / "now", **given)
    assert replace(written.outcome, seconds=0.0) == replace(found.outcome, seconds=0.0)
    assert weights(tmp_path / "later") == weights(tmp_path / "now")
    with pytest.raises(InputError, match="search again with `ratio`"):
        cut(found, ratio=0.05)


def test_what_is_refused_names_fields(model: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`ratio` must be > 0 and < 1"):
        prune(model, ratio=3)
    with pytest.raises(InputError, match="`rate` is unknown here: did you mean `ratio`"):
        prune(model, rate=0.5)
    with pytest.raises(InputError, match="exists already"):
        prune(model, tmp_path, remove=1, **asked(texts))


def heaviest_last(anatomy: Any, windows: Any, removed: Any, candidates: Any, /, *args: Any, **options: Any) -> Any:
    """A criterion of one's own: small blocks go first."""
    return [float(anatomy.parameters(removed) - anatomy.parameters([*removed, *unit])) for unit in candidates]


def test_a_criterion_may_be_a_function(model: Path, texts: Path, tmp_path: Path) -> None:
    found = prune(model, tmp_path / "own", criterion=heaviest_last, remove=2, **asked(texts))
    anatomy = load(model, device="cpu").anatomy
    sizes = {block: anatomy.parameters() - anatomy.parameters([block]) for block in anatomy.branches}
    assert [sizes[block] for block in found.removed] == sorted(sizes.values())[:2]
    assert load_record(tmp_path / "own").options["criterion"] == "heaviest_last"
    with pytest.raises(InputError, match="`criterion` must be a name or a function"):
        prune(model, criterion=3, remove=2, **asked(texts))


def test_a_dry_run_writes_nothing(model: Path, texts: Path, tmp_path: Path) -> None:
    assert prune(model, dry_run=True, remove=1, **asked(texts)) is None
    assert prune(model, tmp_path / "out", dry_run=True, remove=1, **asked(texts)) is None
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="command line only"):
        prune(model, push_to_hub="me/model", remove=1, **asked(texts))


def test_a_log_of_another_search_is_refused_in_a_dry_run_too(model: Path, texts: Path, tmp_path: Path) -> None:
    prune(model, tmp_path / "first", remove=1, **asked(texts))
    log = tmp_path / "first" / REMOVALS_FILE
    prune(model, start=log, dry_run=True, remove=2, **asked(texts))
    with pytest.raises(InputError, match=r"other texts|another"):
        prune(model, start=log, dry_run=True, remove=2, **asked(texts) | {"samples": 4})


def test_what_python_made_names_no_command(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["mine.py", "--secret"])
    prune(model, tmp_path / "out", remove=1, **asked(texts))
    told = [(tmp_path / "out" / name).read_text() for name in ("README.md", "report.html", "record.json")]
    assert not any("secret" in text for text in told)
    assert "Make it again" not in told[0]
    assert 'class="command"' not in told[1]


def test_short_words_for_results(model: Path, texts: Path) -> None:
    found = prune(model, remove=1, **asked(texts))
    assert re.fullmatch(r"<PruneResult of .*: 1 of \d+ blocks removed, perplexity [\d.]+>", repr(found))
    assert re.fullmatch(r"<Checkpoint .*: LlamaForCausalLM, [\d,]+ parameters, float32>", repr(found.inputs.checkpoint))
    assert repr(found.removed) == f"[<{found.removed[0]}>]"
    with pytest.raises(InputError, match="`form` 'sotck' is unknown: did you mean stock"):
        found.save("never", form="sotck")
    with pytest.raises(InputError, match=r"`found` must be what `rm\.prune` returned"):
        cut("small", remove=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, "", 3, torch.nn.Linear(1, 1)])
def test_what_is_no_model_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="`model` must be"):
        prune(given, remove=1)
