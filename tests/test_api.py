"""``import remodeler as rm``: every name is there, and the import itself costs nothing."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import remodeler as rm

HEAVY = ("torch", "transformers", "datasets", "matplotlib", "numpy", "cyclopts", "rich")
VERBS = ("align", "audit", "cut", "evaluate", "export", "fuse", "merge", "prune", "recover")


@pytest.mark.parametrize("name", rm.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(rm, name) is not None
    assert name in dir(rm)


def test_an_unknown_name_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        rm.prunes  # noqa: B018


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys, remodeler; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_shows_its_options_and_says_what_it_does(verb: str) -> None:
    function = getattr(rm, verb)
    assert inspect.getdoc(function)
    assert len(inspect.signature(function).parameters) > 1


def test_tables_of_rooms() -> None:
    assert "blockpruner" in rm.pruning.METHODS
    assert "perplexity" in rm.pruning.CRITERIA
    assert "ties" in rm.merging.METHODS
    assert "gguf" in rm.exporting.TARGETS
    assert "lora" in rm.recovery.METHODS


def test_a_day_with_a_model(model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune, cut, save, recover, measure, compare: paths and loaded models alike."""
    monkeypatch.chdir(tmp_path)
    how = {"texts": str(texts), "samples": 8, "length": 16}
    loaded = rm.load(model, device="cpu")
    found = rm.prune(loaded, remove=2, **how)
    small = found.save("small")
    rm.cut(found, remove=1).save("medium")
    better = rm.recover(small, "better", teacher=loaded, steps=1, device="cpu", **how)
    assert better is not None
    assert better.recovered["heldout_perplexity"] > 0
    measured = rm.evaluate([loaded, small, "medium"], texts=str(texts), length=16, speed=False, device="cpu")
    sizes = [each["parameters"] for each in measured.checkpoints]
    assert sizes[0] > sizes[2] > sizes[1]
    assert rm.report(["small", "medium", "better"]).exists()
    assert rm.report("small", "one.html").exists()


def test_inputs_that_are_none_of_a_verb() -> None:
    with pytest.raises(rm.InputError, match="`model` must be given"):
        rm.evaluate([])
    with pytest.raises(rm.InputError, match="is no folder"):
        rm.evaluate("./nowhere", texts="neither")
    with pytest.raises(rm.InputError, match=r"`texts` must be .* \(got a list\)"):
        rm.audit(texts=["a text"])
    with pytest.raises(rm.InputError, match="`teachers` must be a folder, a hub id or a loaded checkpoint"):
        rm.fuse("student", teachers=[object()], out="fused")
    with pytest.raises(rm.InputError, match="`models` must be"):
        rm.merge(["a", 3], out="merged")
