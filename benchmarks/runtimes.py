"""Dense, pruned and zeroed in transformers, llama.cpp and vLLM: prefill and decode, in turns, wall and processor time.

Claim: a model without a quarter of its blocks is faster by at least the share of its weights that went, in every
runtime, and one whose blocks are zeroed is not faster at all. The weights are random: what is measured is time.
Variants of a runtime take turns in one process (vLLM: a process each, twice in turn), the medians and the spread are
told, and so is the time of the processor, which other work on the machine disturbs less.

    python benchmarks/runtimes.py --folder DIR [--vllm VENV/bin/python] [--repeats 7]
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import (
    Row,
    Timed,
    add_numbers,
    add_paths,
    in_turns,
    load_float32,
    new_parser,
    publish,
    run_main,
    timed,
)
from measurements import Column, Table
from transformers import LlamaConfig, LlamaForCausalLM

from remodeler.checkpoint.save import save_pruned
from remodeler.exporting.gguf.job import export_gguf
from remodeler.model.caches import given_cache, returned_cache
from remodeler.runs.units import Block

PROMPT = 512
RUNTIMES = ("transformers", "llama.cpp", "vllm")
GONE = [
    f"{kind}.{layer}" for kind, layers in (("attention", (5, 7, 9, 11)), ("mlp", (6, 8, 10, 12))) for layer in layers
]
"""Eight of 32 blocks, as searches take them: from the middle, attentions and MLPs of different layers."""
FORMS = {"dense": None, "pruned": "packed", "zeroed": "portable"}
Times = dict[str, list[dict[str, float]]]
Run = Callable[[], dict[str, float]]


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
    source = load_float32(places["dense"])
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


def phases(prefill: Timed[Any], decode: Timed[Any]) -> dict[str, float]:
    """Seconds of the two phases of a run, on the clock and of the processor."""
    seconds = {"prefill": prefill.seconds, "decode": decode.seconds}
    return seconds | {"prefill processor": prefill.processor, "decode processor": decode.processor}


def measured(runs: Mapping[str, Run], repeats: int) -> Times:
    """Every variant in turns; the first round is not counted."""
    return {name: [run.value for run in found] for name, found in in_turns(runs, repeats, warm_up=1).items()}


def transformers_run(place: Path, new: int) -> Run:
    """Prompt and decoding, by hand: no generation code between."""
    model = load_float32(place).model
    ids = torch.arange(PROMPT)[None] % 8000

    @torch.no_grad()
    def run() -> dict[str, float]:
        prefill = timed(lambda: model(ids, use_cache=True, logits_to_keep=1))
        cache = returned_cache(prefill.value)

        def steps() -> None:
            for number in range(new):
                model(
                    ids[:, number : number + 1],
                    **given_cache(model, cache, PROMPT + number, ids[:, number : number + 1]),
                )

        return phases(prefill, timed(steps))

    return run


def llama_cpp_run(path: Path, new: int, threads: int) -> Run:
    """The same in llama.cpp."""
    from llama_cpp import Llama

    model = Llama(
        str(path), n_ctx=PROMPT + new + 8, n_batch=PROMPT, n_threads=threads, n_threads_batch=threads, flash_attn=True,
        verbose=False,
    )  # fmt: skip
    ids = [number % 8000 for number in range(PROMPT)]

    def run() -> dict[str, float]:
        model.reset()

        def steps() -> None:
            for number in range(new):
                model.eval([100 + number])

        return phases(timed(lambda: model.eval(ids)), timed(steps))

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


COLUMNS = (
    Column("runtime", "runtime"),
    Column("model", "model"),
    Column("weights", "weights", "{value:.1%}", "share of the dense model's"),
    *(
        column
        for part in ("prefill", "decode")
        for column in (
            Column(part, f"{part}, tokens/s", "{value:,.0f to}", "tokens/s"),
            Column(f"{part} times", "times", "{value:.2f}", "the dense model's speed"),
            Column(f"{part} processor", "processor", "{value:.2f}", "by processor time", missing=""),
        )
    ),
)


def table(runtimes: Mapping[str, Times], shares: Mapping[str, float], new: int) -> Table:
    """Tokens a second, median and spread, and how many times the dense model's; by the clock and by the processor."""
    rows = (
        {"runtime": runtime, "model": name, "weights": shares[name]} | speeds(found, times["dense"], new)
        for runtime, times in runtimes.items()
        for name, found in times.items()
    )
    return Table(COLUMNS, tuple(rows))


def speeds(found: Sequence[Row], dense: Sequence[Row], new: int) -> Row:
    """Both phases of a variant beside the dense model's."""
    cells: Row = {}
    for part, count in (("prefill", PROMPT), ("decode", new)):
        values, middles = [row[part] for row in found], {}
        for kind in (part, f"{part} processor"):
            middles[kind] = [statistics.median(row[kind] for row in rows) for rows in (dense, found)]
        base, mine = middles[part]
        cells[part] = {"value": count / mine, "low": count / max(values), "high": count / min(values)}
        cells[f"{part} times"] = base / mine
        base, mine = middles[f"{part} processor"]
        cells[f"{part} processor"] = base / mine if mine else None
    return cells


def main() -> None:
    """Make, measure, print."""
    parser = new_parser(__doc__)
    add_paths(parser, "folder")
    add_numbers(parser, hidden=1024, layers=16, repeats=7)
    parser.add_argument("--new", type=int, default=32, help="tokens decoded")
    parser.add_argument("--runtimes", nargs="*", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--vllm", help="Python of an environment with vLLM and this package")
    add_paths(parser, "json", required=False)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    places = models(given.folder, given.hidden, given.layers)
    weights = {name: sum(file.stat().st_size for file in place.glob("*.safetensors")) for name, place in places.items()}
    shares = {name: count / weights["dense"] for name, count in weights.items()}
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    runtimes: dict[str, Times] = {}
    if "transformers" in given.runtimes:
        runs = {name: transformers_run(at, given.new) for name, at in places.items()}
        runtimes["transformers, f32"] = measured(runs, given.repeats)
    if "llama.cpp" in given.runtimes:
        files = {name: given.folder / f"{name}.gguf" for name in places}
        for name, path in files.items():
            if not path.exists():
                export_gguf(load_float32(places[name]), path, "f16", None)
        runs = {name: llama_cpp_run(path, given.new, threads) for name, path in files.items()}
        runtimes["llama.cpp, f16"] = measured(runs, given.repeats)
    if given.vllm and "vllm" in given.runtimes:
        runtimes["vLLM, f32"] = vllm_times(given.vllm, places, given.new, given.repeats, given.folder)
    if given.json:
        given.json.write_text(json.dumps(runtimes, indent=1))
    publish(given, {"speed": table(runtimes, shares, given.new)})
    print(f"{threads} threads, {given.repeats} turns; prompt of {PROMPT}, {given.new} tokens decoded", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
