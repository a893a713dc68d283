"""Dense, pruned and zeroed in transformers, llama.cpp and vLLM: prefill and decode, in turns, wall and processor time.

Claim: a model without a quarter of its blocks is faster by at least the share of its weights that went, in every
runtime, and one whose blocks are zeroed is not faster at all. The weights are random: what is measured is time.
Variants of a runtime take turns in one process (vLLM: a process each, twice in turn), the medians and the spread are
told, and so is the time of the processor, which other work on the machine disturbs less.

    python benchmarks/runtimes.py --folder DIR [--vllm VENV/bin/python] [--repeats 7]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.exporting.gguf.job import export_gguf
from remodeler.runs.units import Block

PROMPT = 512
RUNTIMES = ("transformers", "llama.cpp", "vllm")
GONE = [
    f"{kind}.{layer}" for kind, layers in (("attention", (5, 7, 9, 11)), ("mlp", (6, 8, 10, 12))) for layer in layers
]
"""Eight of 32 blocks, as searches take them: from the middle, attentions and MLPs of different layers."""
FORMS = {"dense": None, "pruned": "packed", "zeroed": "portable"}
Times = dict[str, list[dict[str, float]]]
Run = Callable[[], tuple[float, float, float, float]]


def models(folder: Path, hidden: int, layers: int) -> dict[str, Path]:
    """The three folders, made once."""
    places = {name: folder / name for name in FORMS}
    if not places["dense"].exists():
        sizes = {"hidden_size": hidden, "intermediate_size": 11 * hidden // 4, "num_hidden_layers": layers}
        config = LlamaConfig(
            vocab_size=8192, num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, **sizes
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(places["dense"])
        word_pieces(places["dense"])
    source = load(places["dense"], dtype="float32", device="cpu")
    for name, form in FORMS.items():
        if form and not places[name].exists():
            places[name].mkdir()
            save_pruned(source, [Block.parse(each) for each in GONE], places[name], form)  # type: ignore[arg-type]
    return places


def word_pieces(folder: Path) -> None:
    """A byte-level one that no runtime is asked to use."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    how = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=letters, show_progress=False)
    core.train_from_iterator(["the cat sat on the mat"] * 9, how)
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>").save_pretrained(folder)


def clocked(action: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - processor


def in_turns(runs: Mapping[str, Run], repeats: int) -> Times:
    """Every variant once, again and again; the first round is not counted."""
    found: Times = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            values = run()
            if turn:
                names = ("prefill", "prefill processor", "decode", "decode processor")
                found[name].append(dict(zip(names, values, strict=True)))
    return found


def transformers_run(place: Path, new: int) -> Run:
    """Prompt and decoding, by hand: no generation code between."""
    model = load(place, dtype="float32", device="cpu").model
    ids = torch.arange(PROMPT)[None] % 8000

    @torch.no_grad()
    def run() -> tuple[float, float, float, float]:
        outputs: list[Any] = []
        first = clocked(lambda: outputs.append(model(ids, use_cache=True, logits_to_keep=1)))
        cache = outputs[0].past_key_values

        def steps() -> None:
            for number in range(new):
                model(ids[:, number : number + 1], past_key_values=cache, use_cache=True)

        return *first, *clocked(steps)

    return run


def llama_cpp_run(path: Path, new: int, threads: int) -> Run:
    """The same in llama.cpp."""
    from llama_cpp import Llama

    model = Llama(
        str(path), n_ctx=PROMPT + new + 8, n_batch=PROMPT, n_threads=threads, n_threads_batch=threads, flash_attn=True,
        verbose=False,
    )  # fmt: skip
    ids = [number % 8000 for number in range(PROMPT)]

    def run() -> tuple[float, float, float, float]:
        model.reset()

        def steps() -> None:
            for number in range(new):
                model.eval([100 + number])

        return *clocked(lambda: model.eval(ids)), *clocked(steps)

    return run


VLLM = """
import json, os, sys, time
os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR",
                  VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind")
def main():
    from vllm import LLM, SamplingParams
    place, prompt, new, repeats = sys.argv[1], *map(int, sys.argv[2:])
    model = LLM(model=place, dtype="float32", max_model_len=prompt + new + 8, enforce_eager=True, max_num_seqs=2,
                enable_prefix_caching=False, disable_log_stats=True, skip_tokenizer_init=True)
    given = [{"prompt_token_ids": [number % 8000 for number in range(prompt)]}]
    def run(tokens):
        how = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        wall, processor = time.perf_counter(), time.process_time()
        model.generate(given, how, use_tqdm=False)
        return time.perf_counter() - wall, time.process_time() - processor
    run(2)
    rows = []
    for _ in range(repeats):
        one, all_ = run(1), run(new + 1)
        rows.append({"prefill": one[0], "prefill processor": one[1], "decode": all_[0] - one[0],
                     "decode processor": all_[1] - one[1]})
    print("ROWS " + json.dumps(rows))
if __name__ == "__main__":
    main()
"""


def vllm_times(python: str, places: Mapping[str, Path], new: int, repeats: int, folder: Path) -> Times:
    """A process each, twice in turn; this package must be installed in that environment for the pruned one."""
    script = folder / "in_vllm.py"
    script.write_text(VLLM)
    found: Times = {name: [] for name in places}
    for part in (repeats - repeats // 2, repeats // 2):
        for name, place in places.items():
            command = [python, str(script), str(place), str(PROMPT), str(new), str(part)]
            told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
            line = next(line for line in told.splitlines() if line.startswith("ROWS "))
            found[name] += json.loads(line.removeprefix("ROWS "))
    return found


def table(runtimes: Mapping[str, Times], shares: Mapping[str, float], new: int) -> str:
    """Tokens a second, median and spread, and how many times the dense model's; by the clock and by the processor."""
    head = (
        "runtime",
        "model",
        "weights",
        "prefill, tokens/s",
        "times",
        "processor",
        "decode, tokens/s",
        "times",
        "processor",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for runtime, times in runtimes.items():
        for name, rows in times.items():
            cells = [f"{shares[name]:.1%}"]
            for part, count in (("prefill", PROMPT), ("decode", new)):
                values, base = [row[part] for row in rows], [row[part] for row in times["dense"]]
                ratio = [statistics.median(each[f"{part} processor"] for each in times[key]) for key in ("dense", name)]
                speed = count / statistics.median(values)
                cells.append(f"{speed:,.0f} ({count / max(values):,.0f} to {count / min(values):,.0f})")
                cells.append(f"{statistics.median(base) / statistics.median(values):.2f}")
                cells.append(f"{ratio[0] / ratio[1]:.2f}" if ratio[1] else "")
            lines.append(f"| {runtime} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--new", type=int, default=32, help="tokens decoded")
    parser.add_argument("--runtimes", nargs="*", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--vllm", help="Python of an environment with vLLM and this package")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    places = models(given.folder, given.hidden, given.layers)
    weights = {name: sum(file.stat().st_size for file in place.glob("*.safetensors")) for name, place in places.items()}
    shares = {name: count / weights["dense"] for name, count in weights.items()}
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    runtimes: dict[str, Times] = {}
    if "transformers" in given.runtimes:
        runs = {name: transformers_run(at, given.new) for name, at in places.items()}
        runtimes["transformers, f32"] = in_turns(runs, given.repeats)
    if "llama.cpp" in given.runtimes:
        files = {name: given.folder / f"{name}.gguf" for name in places}
        for name, path in files.items():
            if not path.exists():
                export_gguf(load(places[name], dtype="float32", device="cpu"), path, "f16", None)
        runs = {name: llama_cpp_run(path, given.new, threads) for name, path in files.items()}
        runtimes["llama.cpp, f16"] = in_turns(runs, given.repeats)
    if given.vllm and "vllm" in given.runtimes:
        runtimes["vLLM, f32"] = vllm_times(given.vllm, places, given.new, given.repeats, given.folder)
    if given.json:
        given.json.write_text(json.dumps(runtimes, indent=1))
    print(table(runtimes, shares, given.new))
    print(f"{threads} threads, {given.repeats} turns; prompt of {PROMPT}, {given.new} tokens decoded", file=sys.stderr)


if __name__ == "__main__":
    main()
