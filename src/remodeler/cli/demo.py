"""``remodel demo``: the bundled model pruned twice, measured, written, loaded in stock transformers."""

import os
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

from remodeler.cli.evaluate import show_table
from remodeler.cli.results import results_of
from remodeler.cli.screen import note, say
from remodeler.errors import InputError
from remodeler.runs.config import OUTPUT
from remodeler.runs.folders import refuse_existing
from remodeler.runs.options import Option, build, config
from remodeler.runs.records import Record, load_record


@config
class DemoConfig:
    """Try it: prune the small real model that is bundled, measure, write and load it; offline, two minutes."""

    out: Annotated[Path, Option(OUTPUT)] = Path("remodel-demo")
    """New folder for the results."""


OPTIONS = {"dtype": "float32", "device": "cpu", "texts": "python", "samples": 12, "length": 256, "ratio": 0.25}
PROMPT = "Return a list of"
RUNS = {
    "blocks": ("BlockPruner as in the paper: any attention or MLP may go", "free"),
    "standard": ("neighbouring pairs only, so that what is left is a stock Llama", "standard"),
}
STOCK = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
model, tokenizer = (auto.from_pretrained(sys.argv[1]) for auto in (AutoModelForCausalLM, AutoTokenizer))
ids = tokenizer(sys.argv[2], return_tensors="pt").input_ids
text = tokenizer.decode(model.generate(ids, max_new_tokens=40, do_sample=False)[0], skip_special_tokens=True)
assert not any(name.startswith("remodeler") for name in sys.modules)
print(f"{type(model).__name__} with {model.config.num_hidden_layers} layers continues: {text!r}")
"""


def run_demo(out: Path) -> dict[str, Record]:
    """Prune the embedded model by blocks and by pairs into ``out``; both records by name.

    Calibration and held-out texts are disjoint parts of what every Python documents of itself; nothing is fetched.
    """
    from remodeler.pruning.config import PruneConfig
    from remodeler.pruning.job import prune_model

    refuse_existing(out)
    with as_file(files("remodeler") / "demo_model") as model:
        for name, (words, shape) in RUNS.items():
            note("")
            note(f"{name}: {words}")
            given = {"model": str(model), "out": out / name, "shape": shape, **OPTIONS}
            prune_model(build(PruneConfig, given))
    return {name: load_record(out / name) for name in RUNS}


def load_in_stock(folder: Path) -> str:
    """What a fresh Python with plain transformers says about a written model."""
    command, words = [sys.executable, "-c", STOCK, str(folder), PROMPT], os.environ | {"PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", env=words)
    except subprocess.CalledProcessError as error:
        raise InputError(f"a fresh Python can't load {folder} ({_last_line(error.stderr)}): report it") from None
    return done.stdout.strip()


def _last_line(text: str) -> str:
    """What a process said in the end."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def demo(config: DemoConfig) -> None:
    """Run the demo, and show what came of it."""
    out = config.out
    for name, record in run_demo(out).items():
        removed, blocks = len(record.results["removed"]), record.results["blocks"]
        show_table(results_of(record), f"{name}: {removed} of {blocks} blocks removed")
    say("")
    say(f"A fresh Python with stock transformers, {out / 'standard'}:")
    say(f"  {load_in_stock(out / 'standard')}")
    say("")
    say(f"Open {out / 'blocks' / 'report.html'}. Next: remodel prune --help")
