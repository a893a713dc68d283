"""``auto``: as stored, but in float32 on a CPU to which half precision is slow, where that fits."""

from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from remodeler.checkpoint import devices
from remodeler.checkpoint.devices import auto_dtype, fits_twice, slowdown
from remodeler.checkpoint.load import load
from remodeler.errors import InputError
from remodeler.pruning.api import prune
from remodeler.runs.folders import MARK
from remodeler.runs.records import load_record

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def times(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How much slower half precision is taken to be."""
    monkeypatch.setattr(devices, "slowdown", lambda dtype: request.param)
    return float(request.param)


@pytest.mark.parametrize(("times", "wanted"), [(6.2, torch.float32), (0.6, torch.bfloat16)], indirect=["times"])
def test_half_precision_is_kept_where_it_is_fast(times: float, wanted: torch.dtype) -> None:
    assert auto_dtype(torch.bfloat16, CPU) == wanted
    assert auto_dtype(torch.bfloat16, CUDA) == torch.bfloat16
    assert auto_dtype(torch.bfloat16, CPU, fits=False) == torch.bfloat16
    for other in (torch.float32, torch.float64):
        assert auto_dtype(other, CPU) == other


def test_it_is_found_by_a_product() -> None:
    assert 0.01 < slowdown(torch.bfloat16) < 1000
    assert slowdown(torch.float32) > 0


def test_what_fits_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    for free, fits in ((2000, False), (3400, True)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: type("Memory", (), {"available": free}))
        assert fits_twice(tmp_path) == fits
        assert not fits_twice(tmp_path, 2)  # as of FP8


@pytest.fixture
def half(model: Path, tmp_path: Path) -> Path:
    """A model in bfloat16."""
    folder = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(folder)
    for file in model.glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("times", [6.2], indirect=True)
def test_what_is_computed_in_float32_is_written_as_it_was_stored(
    times: float, half: Path, texts: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    assert load(half, device="cpu").model.dtype == torch.float32
    assert "computing in float32: bfloat16 is 6.2 times slower on this CPU" in messages.text
    assert load(half, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    prune(half, tmp_path / "out", remove=1, texts=str(texts), samples=8, length=16, device="cpu")
    facts = load_record(tmp_path / "out").inputs["model"]
    assert (facts["dtype"], facts["stored_dtype"]) == ("float32", "bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_a_search_goes_on_in_the_dtype_of_its_log(
    half: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"texts": str(texts), "samples": 8, "length": 16, "device": "cpu"}
    monkeypatch.setattr(devices, "slowdown", lambda dtype: 0.6)
    prune(half, tmp_path / "first", remove=1, **given)
    monkeypatch.setattr(devices, "slowdown", lambda dtype: 6.2)
    log = tmp_path / "first" / "removals.jsonl"
    assert prune(half, start=log, remove=2, **given).header["model"]["dtype"] == "bfloat16"
    killed = tmp_path / "second.partial"
    killed.mkdir()
    (killed / MARK).touch()
    (killed / log.name).write_bytes(log.read_bytes())
    prune(half, tmp_path / "second", remove=2, **given)
    assert load_record(tmp_path / "second").inputs["model"]["dtype"] == "bfloat16"
    with pytest.raises(InputError, match="other"):
        prune(half, start=log, remove=2, dtype="float32", **given)
