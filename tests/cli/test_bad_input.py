"""One table of what a person can get wrong, for every verb: code 2, one sentence, and not a byte on the disk is other.

A verb has words that work. A row puts other words in the place of its inputs, or, with a ``+``, adds some to them;
options that it has already are then given so.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from commands import verbs
from prepared import prepare
from remodeler.cli import app as cli
from remodeler.cli.command import configs_of
from remodeler.runs.options import specs

Run = Callable[..., int]
State = dict[str, tuple[int, int] | None]
Fault = tuple[str, str]


class Verb(NamedTuple):
    """A command that works, in two parts, and what can be wrong with it."""

    inputs: str
    rest: str
    faults: Sequence[Fault]


READ = "--samples 8 --length 16"
COMPUTE = [("+ --device tpu", "device 'tpu' can't be used"), ("+ --dtype int3", "'int3' is")]
PUBLISHED = ("+ --push-to-hub nonsense", "'nonsense' names no owner")
PACE = [
    ("+ --epochs 0", "epochs 0.0 was given"),
    ("+ --epochs nan", "a finite number was expected"),
    ("+ --learning-rate -1", "learning rate -1.0 was given"),
    ("+ --warmup 2", "a share of the steps from 0 to 1"),
    ("+ --schedule square", "schedule 'square' is not known"),
    ("+ --micro-batch 0", "micro 0 was given"),
    ("+ --precision int8", "precision 'int8' is not known"),
]
OPTIMIZATION = [
    ("+ --steps 2 --epochs 3", "--steps and --epochs were given: give one of them"),
    ("+ --epochs 0", "--epochs must be > 0 (got 0)"),
    ("+ --epochs nan", "--epochs must be a finite number"),
    ("+ --learning-rate -1", "--learning-rate must be > 0 (got -1)"),
    ("+ --warmup 2", "--warmup must be >= 0 and <= 1 (got 2)"),
    ("+ --schedule square", "--schedule 'square' is unknown"),
    ("+ --steps 0", "--steps must be >= 1 (got 0)"),
    ("+ --train-batch-size 0", "--train-batch-size must be >= 1 (got 0)"),
    ("+ --micro-batch-size 0", "--micro-batch-size must be >= 1 (got 0)"),
    ("+ --precision int8", "--precision 'int8' is unknown"),
    ("+ --adapters --rank 0", "--rank must be >= 1 (got 0)"),
    ("+ --adapters --alpha inf", "--alpha must be a finite number"),
    ("+ --adapters --dropout 1.5", "--dropout must be >= 0 and < 1 (got 1.5)"),
]
ADAPTERS = [
    ("+ --adapters --rank 0", "adapters of rank 0"),
    ("+ --adapters --alpha inf", "--alpha inf was given, a finite number"),
]


def models(words: str = "{}") -> list[Fault]:
    """Folders that are no whole model."""
    told = {
        "no/where/here": "is no folder",
        "hollow": "hollow is empty",
        "damaged": "truncated or damaged",
        "misconfigured": "misconfigured/config.json is not valid JSON",
    }
    return [(words.format(name), message) for name, message in told.items()]


def texts(option: str = "--texts", empty: str = "holds no text", ending: str = "txt") -> list[Fault]:
    """Files that hold no text that can be read."""
    return [
        (f"+ {option} nothing.{ending}", f"there is no file nothing.{ending}"),
        (f"+ {option} empty.{ending}", empty),
        (f"+ {option} latin.{ending}", "is not UTF-8 text" if ending == "txt" else "is not valid JSON"),
        (f"+ {option} broken.jsonl", "is not valid JSON"),
    ]


def taken(*names: str) -> list[Fault]:
    """Results that are there already; by default a folder and a file."""
    return [(f"+ --out {name}", f"{name} exists already") for name in names or ("taken", "taken.txt")]


PRUNE: list[Fault] = [
    *models(),
    ("quantised", "quantised is quantised (gptq), which can't be dequantised here: give the unquantised checkpoint"),
    ("wordless", "the tokenizer of wordless can't be loaded"),
    ("texts.jsonl", "is a file: give a model folder"),
    ("encoder", "encoder has no head"),
    *texts(),
    *taken(),
    ("+ --out taken.txt/out", "can't be used"),
    ("+ --out new/deep/out --from empty.jsonl", "empty.jsonl is not a removal log"),
    ("+ --texts broken.parquet", "can't be read as .parquet"),
    ("+ --samples 0", "--samples must be >= 1 (got 0)"),
    ("+ --length 0", "--length must be >= 1 (got 0)"),
    ("+ --length 999", "reads at most 256"),
    ("+ --ratio 25", "--ratio 25: a share above 1 needs a percent sign: did you mean 25%?"),
    ("+ --ratio 150%", "--ratio must be > 0 and < 1 (got 1.5)"),
    ("+ --ratio nan", "--ratio must be a finite number"),
    ("+ --ratio much", "--ratio much: give a share as 0.25 or 25%"),
    ("+ --ratio 90%", "beyond what blocks allow"),
    ("+ --remove 0", "--remove must be >= 1 (got 0)"),
    ("+ --remove 99", "7 are possible"),
    ("+ --ratio 0.1 --remove 2", "--ratio and --remove were given: give one of them"),
    ("+ --max-perplexity-increase 20", "a share above 5 needs a percent sign: did you mean 20%?"),
    ("+ --max-perplexity-increase -5%", "--max-perplexity-increase must be > 0 (got -0.05)"),
    ("+ --batch-size 0", "--batch-size must be >= 1 (got 0)"),
    ("+ --packing tight", "--packing 'tight' is unknown"),
    ("+ --unit head", "--unit 'head' is unknown"),
    ("+ --unit mlp --shape standard", "--unit mlp was given with --shape standard"),
    ("+ --unit layer --shape deci", "--unit layer was given with --shape deci"),
    ("+ --form gguf", "--form 'gguf' is unknown"),
    ("+ --form stock", "add --shape standard or --unit layer"),
    ("+ --shape round", "--shape 'round' is unknown"),
    ("+ --method magic", "--method 'magic' is unknown"),
    ("+ --criterion vibes", "--criterion 'vibes' is unknown"),
    ("+ --search guess", "--search 'guess' is unknown"),
    ("+ --search race --error 2", "did you mean 2%?"),
    ("+ --family rwkv", "--family 'rwkv' is unknown, "),
    ("+ --revision main", "which has none"),
    ("+ --device meta", "device 'meta' can't be used"),
    ("+ --from nothing.jsonl", "nothing.jsonl can't be read"),
    ("+ --from broken.jsonl", "line 1 of broken.jsonl is not valid JSON"),
    ("sister --from pruned/removals.jsonl", "belongs to a search with another model"),
    ("+ --out begun --unit mlp", "another options (unit was 'block', is 'mlp')"),
    ("+ --then magic", "--then 'magic' is unknown"),
    ("+ --then width --blocks-share 44", "did you mean 44%?"),
    ("+ --multiple 3", "but no heads or channels go"),
    ("+ --method policy-gradient --width-steps 0", "--width-steps must be >= 1 (got 0)"),
    ("+ --method policy-gradient --multiple 0", "--multiple must be >= 1 (got 0)"),
    ("+ --method policy-gradient --granularity rows", "--granularity 'rows' is unknown"),
    ("+ --method policy-gradient --score magic", "--score 'magic' is unknown"),
    ("+ --method hybrid-grained --estimates magic", "--estimates 'magic' is unknown"),
    ("+ --method policy-gradient --remove 2", "give a --ratio"),
    ("+ --method policy-gradient --unit layer", "removes no blocks"),
    ("+ --method policy-gradient --stream", "leave out --stream"),
    ("+ --device-map auto --stream", "--device-map auto was given with --stream: give one of them"),
    ("+ --device-map everywhere", "--device-map 'everywhere' is unknown: choose auto"),
    ("+ --max-memory cpu=1GiB", "add --device-map auto"),
    ("+ --device-map auto --max-memory cpu", "give devices and sizes as 0=20GiB"),
    ("damaged --stream", "truncated or damaged"),
    *COMPUTE,
    PUBLISHED,
]
CUT: list[Fault] = [
    ("nothing.jsonl model", "nothing.jsonl can't be read"),
    ("hollow model", "hollow/removals.jsonl can't be read"),
    ("broken.jsonl model", "is not valid JSON"),
    ("empty.jsonl model", "is not a removal log"),
    ("latin.jsonl model", "is not valid JSON"),
    ("texts.jsonl model", "is not a removal log"),
    *models("pruned {}"),
    ("pruned sister", "was searched on other weights"),
    *taken(),
    ("+ --remove 9", "the log ends after 2 steps"),
    ("+ --remove 9", "continue it, prune with --from this log"),
    ("+ --ratio 0.1", "give one of them"),
    ("+ --form gguf", "--form 'gguf' is unknown"),
    ("+ --form stock", "the stock form can't hold this model"),
    *COMPUTE,
]
RECOVER: list[Fault] = [
    *models(),
    *texts(),
    *taken(),
    *OPTIMIZATION,
    ("+ --held-out nothing.txt", "there is no file nothing.txt"),
    ("+ --evaluate-every -2", "--evaluate-every must be >= 0 (got -2)"),
    ("+ --method magic", "--method 'magic' is unknown"),
    ("+ --method distill", "name it with --teacher"),
    ("+ --method full --rank 4", "no use for adapters"),
    ("+ --method full --no-merge", "no adapters are trained"),
    ("+ --top-k 5", "no use for a teacher's predictions"),
    ("+ --method distill --teacher model --top-k 0", "--top-k must be >= 1 (got 0)"),
    ("+ --method distill --teacher model --temperature 0", "--temperature must be > 0 (got 0)"),
    ("+ --method distill --teacher model --text-share 2", "--text-share must be >= 0 and <= 1 (got 2)"),
    ("+ --method distill --teacher damaged", "truncated or damaged"),
    ("+ --method distill --teacher model --teacher-store taken.txt", "taken.txt can't be used"),
    ("+ --teacher-store store", "for --method distill"),
    *COMPUTE,
    PUBLISHED,
]
MERGE: list[Fault] = [
    *models("model {}"),
    ("", "0 models were given"),
    ("model wider", "only equal shapes can be merged"),
    ("model gpt", "only one ties its embeddings"),
    ("model quantised", "is quantised"),
    *taken(),
    ("+ --method magic", "--method 'magic' is unknown"),
    ("+ --method ties", "name it with --base"),
    ("+ --base mother", "has no use for"),
    ("+ --base model --method ties", "is the base and one of the models"),
    ("+ --base wider --method ties", "only equal shapes"),
    ("+ --base damaged --method ties", "truncated or damaged"),
    ("+ --base mother --method ties --density 1.5", "choose a number from 0 to 1"),
    ("+ --base mother --method sce --variant mine", "--variant 'mine' is unknown"),
    ("+ --base mother --method task_arithmetic --scale nan", "a number, a gradient"),
    ("+ --weight nan", "a number, a gradient"),
    ("+ --weight 0", "sum to 0"),
    ("+ --weight 0.7 0.3", "'0.3' was not expected: repeat --weight for each value, --weight 0.7 --weight 0.3"),
    ("--weight 0.7 0.3 model sister", "'0.3' is no model: repeat an option for each value, --weight 0.7 --weight 0.3"),
    ("+ --weight 1 --weight 2 --weight 3", "3 times for 2 models"),
    ("+ --density 0.5", "--density was given, which linear does not take"),
    ("+ --method slerp --t 2", "choose a number from 0 to 1"),
    ("model --method slerp", "merges exactly 2"),
    ("+ --tokenizer mine", "--tokenizer 'mine' is unknown"),
    ("+ --shard-size big", "--shard-size 'big' is not a size"),
    ("--config nothing.yml", "nothing.yml can't be read"),
    ("--config broken.yml", "is not valid YAML"),
    ("--config empty.yml", "names no merge_method"),
    ("--config latin.yml", "is not valid YAML"),
    ("model --config merge.yml", "give one of them"),
    *COMPUTE,
    PUBLISHED,
]
FUSE: list[Fault] = [
    *models("{} --teachers sister"),
    *models("model --teachers {}"),
    ("model --teachers sister --teachers sister", "is given twice"),
    ("model --teachers encoder", "encoder is no causal language model"),
    *texts(),
    *taken(),
    *OPTIMIZATION,
    ("model", "--teachers must be given"),
    ("+ --held-out nothing.txt", "there is no file nothing.txt"),
    ("+ --samples 0", "--samples must be >= 1 (got 0)"),
    ("+ --length 0", "--length must be >= 1 (got 0)"),
    ("+ --length 1", "give longer ones, or a larger --length"),
    ("+ --teacher-store taken.txt", "can't be used"),
    *[
        (f"+ --{name} magic", f"--{name} 'magic' is unknown")
        for name in ("align", "map", "parity", "fusion", "level", "rank-by", "unaligned", "collide", "divergence")
    ],
    ("+ --divergence hybrid --align dp", "it takes bytes, mince"),
    ("+ --top-k 0", "--top-k must be >= 1 (got 0)"),
    ("+ --text-share 2", "--text-share must be >= 0 and <= 1 (got 2)"),
    ("+ --temperature 0", "--temperature must be > 0 (got 0)"),
    ("+ --evaluate-every -1", "--evaluate-every must be >= 0 (got -1)"),
    ("+ --batch-size 0", "unknown option --batch-size"),
    ("+ --score token", "unknown option --score"),
    *COMPUTE,
    PUBLISHED,
]
EVALUATE: list[Fault] = [
    *models(),
    ("model --against damaged", "truncated or damaged"),
    *texts(),
    *taken(),
    ("+ --length 999", "reads at most 256"),
    ("+ --packing tight", "--packing 'tight' is unknown"),
    ("+ --tasks empty.jsonl", "holds no questions"),
    ("+ --tasks broken.jsonl", "broken.jsonl is not valid JSON"),
    ("+ --tasks latin.jsonl", "latin.jsonl is not valid JSON"),
    ("+ --tasks questions.jsonl --limit 0", "--limit must be >= 1 (got 0)"),
    ("+ --tasks questions.jsonl --limit 1", "a standard error needs 2"),
    ("+ --limit 3", "without --tasks"),
    ("+ --revision main", "which has none"),
    *COMPUTE,
]
EXPORT: list[Fault] = [
    *models(),
    ("", "one of the two"),
    ("wordless", "the tokenizer of wordless can't be loaded"),
    *taken("taken", "taken.gguf"),
    ("+ --to tflite", "--to 'tflite' is unknown"),
    ("+ --store q9", "--store 'q9' is unknown"),
    ("+ --tokenizer-from nothing.gguf", "nothing.gguf can't be read"),
    ("+ --tokenizer-from latin.gguf", "is no whole GGUF file"),
    ("+ --tokenizer-from model.gguf --to nemotron", "those are for --to gguf"),
    ("+ --runtime python", "--runtime goes with --to nemotron"),
    ("+ --to nemotron --no-check --runtime python", "--runtime goes with --to nemotron and --check"),
    ("+ --to nemotron --runtime nothing", "nothing does not run"),
    ("+ --to nemotron --runtime /bin/true", "has neither vllm nor mlx_lm"),
    ("gpt --to nemotron", "DeciLM's layout holds llama, mistral, qwen2 only"),
    *[(f"{words} --to nemotron", message) for words, message in (*models(), *taken())],
    ("--gguf nothing.gguf --removals pruned/removals.jsonl", "nothing.gguf can't be read"),
    ("--gguf broken.gguf --removals pruned/removals.jsonl", "is no whole GGUF file"),
    ("--gguf empty.gguf --removals pruned/removals.jsonl", "is no whole GGUF file"),
    ("--gguf model.gguf --removals nothing.jsonl", "nothing.jsonl can't be read"),
    ("--gguf model.gguf --removals broken.jsonl", "is not valid JSON"),
    ("--gguf model.gguf --removals empty.jsonl", "is not a removal log"),
    ("--gguf model.gguf --removals pruned/removals.jsonl --removal-steps 99", "has 2: lower it"),
    ("--gguf model.gguf --removals pruned/removals.jsonl --removal-steps -1", "--removal-steps must be >= 1 (got -1)"),
    ("--gguf model.gguf --removals pruned/removals.jsonl --to nemotron", "those are for --to gguf"),
    ("--gguf model.gguf", "without --removals"),
    ("+ --removals pruned/removals.jsonl", "go with --gguf"),
    ("+ --dtype int3", "'int3' is"),
]
REPORT: list[Fault] = [
    ("nothing", "there is no file nothing/record.json"),
    ("hollow", "there is no file hollow/record.json"),
    ("taken.txt", "there is no file taken.txt/record.json"),
    ("pruned pruned", "given twice"),
    *taken("taken", "taken.html"),
    ("+ --out nothing/out.html", "can't be used"),
]
PUBLISH: list[Fault] = [
    ("nothing me/model", "there is no folder nothing"),
    ("taken.txt me/model", "there is no folder taken.txt"),
    ("hollow me/model", "holds no model"),
    ("pruned nonsense", "'nonsense' names no owner"),
    ("pruned me/mo/del", "is no name on the hub"),
    ("pruned me/model", "log in with"),
]
ALIGNED: list[Fault] = [
    *models(),
    *texts("--preferences", "holds no usable preference", "jsonl"),
    ("+ --preferences texts.jsonl", "row 1 of texts.jsonl has text"),
    *taken(),
    *OPTIMIZATION,
    ("+ --precision fp16", "fp16 was given on a CPU"),
    ("+ --train-batch 8", "unknown option --train-batch"),
    ("+ --held-out-share 1", "--held-out-share must be > 0 and < 1 (got 1)"),
    ("+ --limit -2", "--limit must be >= 1 (got -2)"),
    ("+ --pairs 0", "--pairs must be >= 1 (got 0)"),
    ("+ --score-gap -1", "--score-gap must be >= 0 (got -1)"),
    ("+ --length 0", "--length must be >= 1 (got 0)"),
    *COMPUTE,
    PUBLISHED,
]
REVISER: list[Fault] = [
    *ALIGNED,
    ("encoder", "encoder has no head"),
    ("+ --template nothing.json", "there is no file nothing.json"),
    ("+ --template broken.json", "is not valid JSON"),
    ("+ --template list.json", "is another one"),
    ("+ --length 3", "none of 16 triples fits 3 tokens"),
    ("+ --difficulty magic", "--difficulty 'magic' is unknown"),
    ("+ --major-share 50", "did you mean 50%?"),
    ("+ --none-share 1", "--none-share must be >= 0 and < 1 (got 1)"),
    ("+ --label-weight -1", "--label-weight must be >= 0 (got -1)"),
    ("+ --warm-up-epochs 0", "--warm-up-epochs must be > 0 (got 0)"),
    ("+ --copies 200%", "--copies must be >= 0 and <= 1 (got 2)"),
    ("+ --gain-floor nan", "--gain-floor must be a finite number"),
]
BASELINE: list[Fault] = [
    *ALIGNED,
    ("+ --method magic", "--method 'magic' is unknown"),
    ("+ --beta -1", "--beta must be > 0 (got -1)"),
    ("+ --chat", "has no chat template"),
]
DECODED: list[Fault] = [
    ("+ --max-new-tokens 0", "--max-new-tokens must be >= 1 (got 0)"),
    ("+ --temperature -1", "--temperature must be >= 0 (got -1)"),
    ("+ --temperature nan", "--temperature must be a finite number"),
    ("+ --top-p 0", "--top-p must be > 0 and <= 1 (got 0)"),
    ("+ --batch-size 0", "--batch-size must be >= 1 (got 0)"),
    ("+ --chat", "has no chat template"),
]
EVOLVE: list[Fault] = [
    *models(),
    *texts("--prompts", "has no prompts"),
    *DECODED,
    *taken(),
    *OPTIMIZATION,
    ("+ --reviser sister", "sister has no reviser.json"),
    ("+ --rounds magic", "--rounds magic is unknown"),
    ("+ --limit 0", "--limit must be >= 1 (got 0)"),
    ("+ --probe -1", "--probe must be >= 0 (got -1)"),
    ("+ --completions 0", "--completions must be >= 1 (got 0)"),
    ("+ --temperature 0", "raise --temperature"),
    ("+ --max-new-tokens 256", "0 prompts with room for 256 tokens"),
    ("+ --min-quality 2", "--min-quality must be >= 0 and <= 1 (got 2)"),
    ("+ --shortest 3 --longest 1", "--shortest must be >= 0 and <= 1 (got 3)"),
    ("+ --longest 0.5", "--longest must be >= 1 (got 0.5)"),
    *COMPUTE,
    PUBLISHED,
]
WHOLE: list[Fault] = [
    *models(),
    *texts("--preferences", "holds no usable preference", "jsonl"),
    *texts("--prompts", "has no prompts"),
    *taken(),
    ("+ --out new/out --template broken.json", "is not valid JSON"),
    ("+ --reviser-model hollow", "hollow is empty"),
    ("+ --rounds magic", "--rounds magic is unknown"),
    ("+ --temperature -1", "--temperature must be >= 0 (got -1)"),
    ("+ --max-new-tokens 256", "0 prompts with room for 256 tokens"),
    ("+ --epochs 0", "--epochs must be > 0 (got 0)"),
    ("+ --min-quality 3", "--min-quality must be >= 0 and <= 1 (got 3)"),
    *COMPUTE,
    PUBLISHED,
]
REVISE: list[Fault] = [
    *texts("--responses", "is empty", "jsonl"),
    ("+ --responses prompts.txt", "has no response"),
    ("+ --reviser model", "model has no reviser.json"),
    ("+ --reviser hollow", "hollow is empty"),
    *taken(),
    ("+ --max-new-tokens 0", "--max-new-tokens must be >= 1 (got 0)"),
    ("+ --limit 0", "--limit must be >= 1 (got 0)"),
    ("+ --batch-size 0", "--batch-size must be >= 1 (got 0)"),
    *COMPUTE,
]
ANSWER: list[Fault] = [
    *models(),
    *texts("--questions", "has no prompts"),
    *DECODED,
    *taken("taken.json", "taken"),
    ("+ --out nothing/out.json", "can't be used"),
    ("+ --format magic", "--format 'magic' is unknown"),
    ("+ --format mt_bench --questions texts.jsonl", "holds no questions of MT-Bench"),
    ("+ --limit 0", "--limit must be >= 1 (got 0)"),
    *COMPUTE,
]
JUDGE: list[Fault] = [
    ("nothing.json", "there is no file nothing.json"),
    ("empty.json", "empty.json holds no preference"),
    ("latin.json", "is not valid JSON"),
    ("list.json", "row 1 of list.json is '1': an object"),
    ("broken.jsonl", "is not valid JSON"),
    ("outputs.json", "outputs.json holds no preference"),
    ("outputs.json --against outputs.json", "need a judge"),
    ("outputs.json --against broken.json --judge model", "is not valid JSON"),
    ("outputs.json --against others.json --judge model", "no instruction in common"),
    *models("outputs.json --against outputs.json --judge {}"),
    ("+ --by magic", "--by 'magic' is unknown"),
    ("+ --by reviser", "model has no reviser.json"),
    *taken("taken.json"),
    *COMPUTE,
]
COMPARE: list[Fault] = [
    *models("model {}"),
    *texts("--preferences", "holds no usable preference", "jsonl"),
    *DECODED,
    *taken(),
    ("+ --reviser sister", "sister has no reviser.json"),
    ("+ --limit 0", "--limit must be >= 1 (got 0)"),
    ("+ --device tpu", "device 'tpu' can't be used"),
]


def posts(empty: str = "empty.csv is empty") -> list[Fault]:
    """Files of posts that can't be read."""
    return [
        ("+ --texts nothing.csv", "there is no file nothing.csv"),
        ("+ --texts empty.csv", empty),
        ("+ --texts latin.csv", "is not UTF-8 text"),
        ("+ --texts broken.jsonl", "is not valid JSON"),
    ]


PREDICTED: list[Fault] = [
    ("nothing.txt {}", "there is no file nothing.txt"),
    ("empty.txt {}", "empty.txt holds no posts"),
    ("latin.txt {}", "row 1 of latin.txt is not id<TAB>"),
    ("broken.txt {}", "is not id<TAB>[characters]"),
    ("broken.jsonl {}", "is not valid JSON"),
    ("broken.conll {}", "is not a tag"),
    ("taken.html {}", "is of an unsupported file type"),
]
AUDIT_RUN: list[Fault] = [
    ("", "neither of a MODEL and --texts"),
    ("--texts nothing.txt", "there is no file nothing.txt"),
    ("--texts empty.txt", "empty.txt is empty"),
    ("--texts latin.txt", "is not UTF-8 text"),
    ("--texts broken.jsonl", "is not valid JSON"),
    ("--texts posts.csv --detector broken.json", "is not valid JSON"),
    ("--texts posts.csv --detector list.json", "is not a lexicon"),
    ("--texts posts.csv --detector model", "model is not a detector"),
    ("--texts posts.csv --detector hollow", "hollow is empty"),
    ("--texts posts.csv --labels toxic", "--labels toxic: a lexicon has no labels"),
    ("--texts posts.csv --threshold 2", "--threshold must be >= 0 and <= 1 (got 2)"),
    ("--texts posts.csv --limit 0", "--limit must be >= 1 (got 0)"),
    ("--texts posts.csv --prompts prompts.txt", "--prompts and --prompt-words are for a MODEL"),
    ("model --texts posts.csv", "both of a MODEL and --texts"),
    ("model", "without --prompts"),
    *models("{} --prompts prompts.txt"),
    *models("model --prompts prompts.txt --against {}"),
    ("+ --prompts nothing.txt", "there is no file nothing.txt"),
    ("+ --prompts empty.txt", "empty.txt has no prompts"),
    ("+ --against model", "MODEL and --against are the same"),
    *DECODED,
    *taken(),
    ("+ --completions 2 --temperature 0", "would all be the same: raise --temperature"),
    ("+ --max-new-tokens 9999", "reads at most 256: lower --max-new-tokens"),
    ("+ --prompt-words 0", "--prompt-words must be >= 1 (got 0)"),
    ("+ --completions 0", "--completions must be >= 1 (got 0)"),
    ("+ --tokens 9", "unknown option --tokens"),
    ("+ --samples 9", "unknown option --samples"),
    ("+ --revision main", "which has none"),
    *COMPUTE,
]
TRAIN: list[Fault] = [
    *posts(),
    ("+ --texts prompts.txt", "has texts without spans"),
    ("+ --encoder hollow", "hollow is empty"),
    ("+ --encoder damaged-encoder", "truncated or damaged"),
    ("+ --encoder tagger", "is a tagger already"),
    *taken(),
    ("+ --dev nothing.csv", "there is no file nothing.csv"),
    ("+ --dev posts.csv", "all are development posts too"),
    ("+ --dev posts.csv --fold 1/5", "give one of them"),
    ("+ --fold 7/5", "--fold must be one of at most 20 parts, e.g. 1/5 (got '7/5')"),
    ("+ --teacher spans.txt", "has no likelihoods"),
    ("+ --teacher-share 2", "--teacher-share must be >= 0 and <= 1 (got 2)"),
    ("+ --harmless empty.txt", "empty.txt is empty"),
    *[(f"+ --{name} magic", f"--{name} 'magic' is unknown") for name in ("auxiliary", "output", "scheme", "loss")],
    ("+ --decode magic", "--decode 'magic' is unknown"),
    ("+ --auxiliary last-k --last-layers 9", "--last-layers must be <= 3, the layers of the encoder"),
    ("+ --dropout 1.5", "--dropout must be >= 0 and < 1 (got 1.5)"),
    ("+ --length 0", "--length must be >= 1 (got 0)"),
    ("+ --length 9", "windows of 9 tokens can't overlap by 64: raise --length or lower --stride"),
    ("+ --stride -1", "--stride must be >= 0 (got -1)"),
    *[
        (f"+ --{name} 0", f"--{name} must be >= 1 (got 0)")
        for name in ("epochs", "train-batch-size", "tokens-per-step", "last-layers")
    ],
    *[(f"+ --{name} 0", f"--{name} must be > 0 (got 0)") for name in ("learning-rate", "head-rate", "clip")],
    *[(f"+ --{name} 4", f"unknown option --{name}") for name in ("batch", "tokens")],
    ("+ --warmup 2", "--warmup must be >= 0 and <= 1 (got 2)"),
    ("+ --weight-decay -1", "--weight-decay must be >= 0 (got -1)"),
    ("+ --weight-decay nan", "--weight-decay must be a finite number"),
    ("+ --shortest -1", "--shortest must be >= 1 (got -1)"),
    ("+ --device tpu", "device 'tpu' can't be used"),
]
PREDICT: list[Fault] = [
    *posts(),
    ("+ --texts empty.txt", "empty.txt is empty"),
    ("+ --tagger encoder", "holds no tagger.json"),
    ("+ --tagger hollow", "holds no tagger.json"),
    *taken(),
    ("+ --out out.docx", "is of an unsupported file type"),
    ("+ --out nothing/out.txt", "can't be used"),
    ("+ --likelihoods", "--likelihoods was given, which out.txt can't hold: end its name in .jsonl"),
    ("+ --threshold 2", "--threshold must be >= 0 and <= 1 (got 2)"),
    ("+ --decode magic", "--decode 'magic' is unknown"),
    ("+ --device tpu", "device 'tpu' can't be used"),
]
VOTE: list[Fault] = [
    *[(words.format("spans.txt"), message) for words, message in PREDICTED],
    ("spans.txt fewer.txt", "predicts other posts"),
    ("tagger spans.txt", "give the posts that it shall predict with --texts"),
    ("hollow spans.txt --texts posts.csv", "holds no tagger.json"),
    ("+ --at-least 5", "--at-least must be <= 2, the number of members (got 5)"),
    ("+ --at-least 0", "--at-least must be >= 1 (got 0)"),
    ("+ --likelihoods", "can't hold: end its name in .jsonl"),
    ("+ --likelihoods --out out.jsonl", "a member has no likelihoods"),
    *taken(),
    ("+ --out out.docx", "is of an unsupported file type"),
]
SCORE: list[Fault] = [
    *[(words.format("posts.csv"), message) for words, message in PREDICTED],
    ("spans.txt nothing.csv", "there is no file nothing.csv"),
    ("spans.txt empty.csv", "empty.csv is empty"),
    ("fewer.txt posts.csv", "has 1 post, the gold file 20"),
]
CONVERT: list[Fault] = [
    *[(words.format("out.jsonl"), message) for words, message in PREDICTED],
    ("spans.txt out.docx", "is of an unsupported file type"),
    ("spans.txt taken.jsonl", "taken.jsonl exists already"),
    ("spans.txt out.conll", "have no texts"),
    ("spans.txt nothing/out.csv --texts posts.csv", "can't be used"),
    ("spans.txt out.csv --texts nothing.csv", "there is no file nothing.csv"),
]
LEXICON: list[Fault] = [
    *posts(),
    ("+ --texts prompts.txt", "has texts without spans"),
    *taken("taken.json"),
    ("+ --out nothing/out.json", "can't be used"),
    ("+ --rate 2", "--rate must be > 0 and <= 1 (got 2)"),
    ("+ --rate nan", "--rate must be a finite number"),
    ("+ --hits 0", "--hits must be >= 1 (got 0)"),
    ("+ --hits 999", "lower --rate or --hits"),
]
DEMO = taken()

OUT, CPU, PAIRS = "--out out", "--device cpu", "--preferences pairs.jsonl"
TABLE: dict[str, Verb] = {
    "prune": Verb("model", f"{OUT} --texts texts.jsonl {READ} {CPU}", PRUNE),
    "cut": Verb("pruned model", f"--remove 1 {OUT} {CPU}", CUT),
    "recover": Verb("pruned", f"{OUT} --texts texts.jsonl {READ} {CPU}", RECOVER),
    "demo": Verb("", "", DEMO),
    "merge": Verb("model sister", OUT, MERGE),
    "fuse": Verb("model --teachers sister", f"{OUT} --texts texts.jsonl {READ} {CPU}", FUSE),
    "evaluate": Verb("model", f"{OUT} --texts texts.jsonl --length 16 --no-speed {CPU}", EVALUATE),
    "export": Verb("model", OUT, EXPORT),
    "report": Verb("pruned", "", REPORT),
    "publish": Verb("pruned me/model", "", PUBLISH),
    "align train-reviser": Verb("model", f"{PAIRS} --template template.json {OUT} {CPU}", REVISER),
    "align baseline": Verb("model", f"{PAIRS} {OUT} {CPU}", BASELINE),
    "align evolve": Verb("model", f"--prompts prompts.txt --reviser reviser --max-new-tokens 8 {OUT} {CPU}", EVOLVE),
    "align run": Verb(
        "model", f"{PAIRS} --prompts prompts.txt --template template.json --max-new-tokens 8 {OUT} {CPU}", WHOLE
    ),
    "align revise": Verb("", f"--responses answered.jsonl --reviser reviser {OUT} {CPU}", REVISE),
    "align answer": Verb("model", f"--questions prompts.txt --max-new-tokens 4 --out out.json {CPU}", ANSWER),
    "align judge": Verb("outputs.json --against outputs.json --judge model", CPU, JUDGE),
    "align compare": Verb("model", f"{PAIRS} --max-new-tokens 4 {OUT} {CPU}", COMPARE),
    "audit run": Verb("model --prompts prompts.txt", f"--max-new-tokens 4 {OUT} {CPU}", AUDIT_RUN),
    "audit train": Verb("--texts posts.csv --encoder encoder", f"{OUT} {CPU}", TRAIN),
    "audit predict": Verb("--texts posts.csv --tagger tagger", f"--out out.txt {CPU}", PREDICT),
    "audit vote": Verb("spans.txt spans.txt", "--out out.txt", VOTE),
    "audit score": Verb("spans.txt posts.csv", "", SCORE),
    "audit convert": Verb("spans.txt out.jsonl", "", CONVERT),
    "audit lexicon": Verb("--texts posts.csv", "--out out.json", LEXICON),
}
ROWS = [pytest.param(verb, *fault, id=f"{verb}: {fault[0]}") for verb in TABLE for fault in TABLE[verb].faults]
EXTRAS = [
    ("evaluate model --texts texts.jsonl --length 16 --no-speed --tasks piqa", "lm_eval", "remodeler[eval]"),
    (f"align baseline model {PAIRS} --method dpo {OUT} {CPU}", "trl", "remodeler[align]"),
]


def flags(verb: str) -> set[str]:
    """The options of a verb."""
    return {flag for spec in specs(dict(configs_of(cli.app))[verb]) for flag in spec.flags}


def words_of(verb: str, change: str) -> list[str]:
    """The words of a row's command."""
    inputs, rest, _ = TABLE[verb]
    if not change.startswith("+"):
        return [*verb.split(), *rest.split(), *change.split()]
    added = change[1:].split()
    return [*verb.split(), *_without([*inputs.split(), *rest.split()], added), *added]


def _without(words: Sequence[str], added: Sequence[str]) -> list[str]:
    """Words less the options, with their values, that are given otherwise."""
    kept: list[str] = []
    skip = False
    for word in words:
        skip = word in added if word.startswith("--") else skip
        kept += [] if skip else [word]
    return kept


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of good and bad files."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare(lambda *words: _run(patch, words))
    return root


def _run(patch: pytest.MonkeyPatch, words: Sequence[str]) -> int:
    patch.setattr(sys, "argv", ["remodel", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def state(root: Path) -> State:
    """Every file and folder, and when it was written."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
        for path in root.rglob("*")
    }


@pytest.fixture(scope="module")
def before(world: Path) -> Iterator[State]:
    """What there is; after all rows every byte is what it was."""
    content = {path: path.read_bytes() for path in world.rglob("*") if path.is_file()}
    yield state(world)
    assert all(path.read_bytes() == whole for path, whole in content.items())


def refused(
    words: Sequence[str], message: str, world: Path, before: State, patch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """One sentence with these words on stderr, code 2, and the disk as it was."""
    patch.chdir(world)
    code = _run(patch, words)
    told = capsys.readouterr().err
    said = [line for line in told.splitlines() if line.startswith("remodel: ")]
    assert (code, len(said)) == (2, 1), told
    assert told.rstrip().endswith(said[0])
    assert message in said[0]
    assert "Traceback" not in told
    assert state(world) == before


@pytest.mark.parametrize(("verb", "change", "message"), ROWS)
def test_a_mistake_is_one_sentence_and_changes_nothing(
    verb: str,
    change: str,
    message: str,
    world: Path,
    before: State,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(words_of(verb, change), message, world, before, monkeypatch, capsys)


@pytest.mark.parametrize(("words", "library", "message"), EXTRAS, ids=[library for _, library, _ in EXTRAS])
def test_a_missing_library_is_one_sentence_that_names_the_extra(
    words: str,
    library: str,
    message: str,
    world: Path,
    before: State,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "remodeler.evaluation.tasks", raising=False)
    monkeypatch.delattr("remodeler.evaluation.tasks", raising=False)
    refused(words.split(), message, world, before, monkeypatch, capsys)


WRITERS = ("prune", "recover", "merge", "fuse", "export", "align train-reviser", "align baseline", "align evolve")


@pytest.mark.parametrize("verb", WRITERS)
def test_a_full_disk_is_told_of_before_the_work(
    verb: str,
    world: Path,
    before: State,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr("remodeler.checkpoint.sizes.free_space", lambda _: 0)
    assert _run(monkeypatch, [*words_of(verb, "+"), "--dry-run"]) == 0
    assert "will be written, the disk of out has 0 B left" in capsys.readouterr().err
    assert state(world) == before


@pytest.mark.parametrize("verb", [verb for verb in TABLE if "--dry-run" in flags(verb)])
def test_a_dry_run_succeeds_and_writes_nothing(
    verb: str, world: Path, before: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    code = _run(monkeypatch, [*words_of(verb, "+"), "--dry-run"])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert told.err + told.out, "no plan"
    assert state(world) == before


def test_no_verb_is_missing_from_the_table() -> None:
    assert sorted(TABLE) == sorted(verbs())
