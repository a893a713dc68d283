"""The command ``remodel``: a verb is a config class and a function that is given it."""

import os
import sys
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError

from remodeler import __version__
from remodeler.alignment.baselines.config import BaselineConfig
from remodeler.alignment.config import AlignConfig, EvolveConfig, ReviseConfig, ReviserConfig
from remodeler.alignment.judging.config import AnswerConfig, CompareConfig, JudgeConfig
from remodeler.auditing.config import AuditConfig, ConvertConfig, LexiconConfig, ScoreConfig
from remodeler.auditing.tagger.config import PredictConfig, TrainConfig, VoteConfig
from remodeler.checkpoint.config import PublishConfig
from remodeler.cli import align, align_judging, audit
from remodeler.cli.command import add_command, add_group
from remodeler.cli.demo import DemoConfig, demo
from remodeler.cli.evaluate import evaluate
from remodeler.cli.export import export
from remodeler.cli.fuse import fuse
from remodeler.cli.merge import merge
from remodeler.cli.mistakes import describe_mistake
from remodeler.cli.prune import cut, prune
from remodeler.cli.recover import recover
from remodeler.cli.report import publish, report
from remodeler.cli.screen import messages_as_notes, note
from remodeler.errors import InputError, one_line, out_of_memory
from remodeler.evaluation.config import EvaluateConfig
from remodeler.exporting.config import ExportConfig
from remodeler.fusion.config import FuseConfig
from remodeler.merging.config import MergeConfig
from remodeler.pruning.config import CutConfig, PruneConfig
from remodeler.recovery.config import RecoverConfig
from remodeler.reporting.config import ReportConfig
from remodeler.runs.records import disk_refusal, os_error, running_command
from remodeler.runs.streams import lasting_streams

STOPPED = "stopped (resumable: rerun the same command)"

app = App(
    name="remodel",
    version=__version__,
    help="Make new language models out of existing ones, without training from scratch.",
    help_epilogue="Try it now, offline: `remodel demo`. Each verb explains itself: `remodel prune --help`.",
    help_format="markdown",
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
)
app.register_install_completion_command(help="Install completion for bash, zsh or fish.")
add_command(app, "prune", PruneConfig, prune)
add_command(app, "cut", CutConfig, cut)
add_command(app, "recover", RecoverConfig, recover)
add_command(app, "merge", MergeConfig, merge)
add_command(app, "fuse", FuseConfig, fuse)
add_command(app, "evaluate", EvaluateConfig, evaluate)
add_command(app, "export", ExportConfig, export)
aligning = add_group(app, "align", "Align a model by reviser-guided self-training, step by step or all in one command.")
add_command(aligning, "run", AlignConfig, align.align)
add_command(aligning, "train-reviser", ReviserConfig, align.train_reviser)
add_command(aligning, "evolve", EvolveConfig, align.evolve)
add_command(aligning, "revise", ReviseConfig, align.revise)
add_command(aligning, "baseline", BaselineConfig, align.train_baseline)
add_command(aligning, "compare", CompareConfig, align_judging.compare)
add_command(aligning, "answer", AnswerConfig, align_judging.answer)
add_command(aligning, "judge", JudgeConfig, align_judging.judge)
auditing = add_group(
    app,
    "audit",
    "Find and count toxic spans in texts, and in what models write.\n\n"
    "In texts: `remodel audit --texts FILE`. In what a model writes: `remodel audit MODEL --prompts FILE`, alone or "
    "`--against OTHER`. All options: `remodel audit run --help`. The other parts train the tagger that finds spans, "
    "and use and score it.",
)
add_command(auditing, "run", AuditConfig, audit.audit)
add_command(auditing, "train", TrainConfig, audit.train_tagger)
add_command(auditing, "predict", PredictConfig, audit.predict)
add_command(auditing, "vote", VoteConfig, audit.vote)
add_command(auditing, "score", ScoreConfig, audit.score)
add_command(auditing, "convert", ConvertConfig, audit.convert)
add_command(auditing, "lexicon", LexiconConfig, audit.learn_lexicon)
add_command(app, "report", ReportConfig, report)
add_command(app, "publish", PublishConfig, publish)
add_command(app, "demo", DemoConfig, demo)


def main() -> None:
    """Entry point: a user's mistake ends in one line and exit code 2, an interrupt in 130.

    What can't be shown stops no work; where a table or a line of a result was lost so, the exit code says it.
    """
    words = sys.argv[1:]
    with lasting_streams() as (out, _), messages_as_notes(), running_command(words):
        code = _run(words)
        out.flush()
        if out.lost and not code:
            code = _print_refusal(
                f"stdout can't be written ({out.lost}): files are complete, what was shown there is lost"
            )
    sys.exit(code)


def _run(words: list[str]) -> Any:
    """Run the verb that was given; the exit code."""
    try:
        app(_with_part(words))
    except SystemExit as end:
        return _print_refusal(STOPPED, 130) if end.code == 130 else end.code
    except InputError as error:
        return _print_refusal(str(error))
    except CycloptsError as error:
        return _print_refusal(describe_mistake(error))
    except KeyboardInterrupt:
        return _print_refusal(STOPPED, 130)
    except Exception as error:
        if out_of_memory(error):
            return _print_refusal(
                f"memory ran out ({one_line(error)}): close other programs, or use a machine with more"
            )
        if found := os_error(error):
            return _print_refusal(str(disk_refusal(Path(os.fsdecode(found.filename or "a file")), found)))
        raise
    return 0


def _with_part(words: list[str]) -> list[str]:
    """The words, with ``run`` for an audit that names no part: ``remodel audit MODEL``, ``remodel audit --texts F``."""
    named = words[:1] != ["audit"] or len(words) < 2 or words[1] in tuple(auditing)
    return words if named else ["audit", "run", *words[1:]]


def _print_refusal(sentence: str, code: int = 2) -> int:
    """Say why there is no result; the exit code."""
    note(f"remodel: {sentence}")
    return code
