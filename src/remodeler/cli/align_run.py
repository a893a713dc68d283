"""``remodel align run``, ``answer`` and ``judge``: all in one command, and what judges read; no logic."""

from typing import Any

from remodeler.cli import options as opt
from remodeler.cli import options_align as ali
from remodeler.cli import options_fuse as fus
from remodeler.cli import options_recover as rec
from remodeler.cli.align import app as app
from remodeler.cli.align import places, round_table

REST: dict[str, Any] = {
    **{"pairs": None, "gap": 0.0, "gain_floor": None, "afresh": False, "identity": 0.0, "labels": True, "family": None},
    **{"slack": 0.0, "shortest": 0.3, "longest": 3.0, "repetition": 0.3, "major_confidence": 0.5},
}
"""Of the steps' options what ``run`` does not ask for."""


@app.command("run", cls=opt.Verb)
def whole(
    model: ali.Policy,
    preferences: ali.Preferences,
    prompts: ali.Prompts,
    out: opt.Out,
    reviser_model: ali.ReviserModel = None,
    held_out: ali.HeldOut = 0.1,
    length: ali.Length = None,
    template: ali.Template = None,
    difficulty: ali.Measure = "gain",
    major_share: ali.Major = 0.5,
    none_share: ali.NoneShare = 1 / 3,
    label_weight: ali.LabelWeight = 1.0,
    warmup_epochs: ali.WarmupEpochs = 1.0,
    rounds: ali.Rounds = "internal,external",
    limit: ali.Limit = None,
    probe: ali.Probe = 64,
    samples: ali.Answers = 4,
    tokens: ali.Tokens = 256,
    temperature: ali.Temperature = 1.0,
    top_p: ali.TopP = 0.95,
    chat: ali.Chat = False,
    batch_size: ali.BatchSize = None,
    quality: ali.Quality = 0.5,
    confidence: ali.Confidence = 0.4,
    restart: ali.Restart = False,
    epochs: ali.Epochs = 2.0,
    learning_rate: ali.LearningRate = None,
    train_batch: ali.Batch = 32,
    schedule: fus.ScheduleName = "cosine",
    warmup: fus.Warmup = 0.03,
    adapters: fus.Adapters = False,
    rank: fus.Rank = 32,
    alpha: fus.Alpha = 32.0,
    micro_batch: rec.MicroBatch = None,
    precision: rec.PrecisionName = "auto",
    checkpointing: rec.Checkpointing = False,
    seed: opt.Seed = 42,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    dry_run: opt.DryRun = False,
) -> None:
    """Reviser and evolution in one command: OUT/reviser from preferences, OUT/policy from prompts.

    The steps alone have more options. Interrupted? The same command goes on.

    Example: `remodel align run policy --preferences pairs.jsonl --prompts prompts.txt --out aligned`
    """
    given = REST | dict(locals())
    from remodeler.alignment.job import align_policy

    first = ali.reviser_wish(given | {"model": reviser_model or model, "samples": None})
    second = ali.evolve_wish(given | {"reviser": str(out / "reviser")})
    if align_policy(first, second, out, dry_run):
        round_table(out / "policy")
        places(out, "reviser, policy, each with its report.html and record.json")


@app.command(cls=opt.Verb)
def answer(
    model: ali.Policy,
    questions: ali.Questions,
    out: ali.File,
    form: ali.Form = "alpaca_eval",
    limit: ali.Limit = None,
    tokens: ali.Tokens = 256,
    temperature: ali.Temperature = 0.0,
    top_p: ali.TopP = 1.0,
    chat: ali.Chat = False,
    batch_size: ali.BatchSize = None,
    seed: opt.Seed = 42,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
) -> None:
    """Write a model's answers as the judges of AlpacaEval and MT-Bench read them.

    Example: `remodel align answer evolved --questions prompts.jsonl --out outputs.json`
    """
    given = dict(locals())
    from remodeler.alignment.judging.job import answer_questions

    places(out, f"{answer_questions(ali.answer_wish(given), out)} answers")


@app.command(cls=opt.Verb)
def judge(
    answers: ali.AnswerFile,
    against: ali.Against = None,
    judge: ali.JudgeName = None,
    by: ali.By = "likelihood",
    out: ali.Annotations = None,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
) -> None:
    """Win rates and ratings: of files that a judge wrote, or of two models' answers before a local judge.

    Example: `remodel align judge outputs.json --against baseline.json --judge large-model`
    """
    given = dict(locals())
    from remodeler.alignment.judging.job import judge_answers
    from remodeler.cli.screen import table

    for title, figures in judge_answers(ali.judge_wish(given), out).items():
        table(title, ["", ""], [[name.replace("_", " "), f"{value:,.6g}"] for name, value in figures.items()])


@app.command(cls=opt.Verb)
def compare(
    policies: ali.Policies,
    preferences: ali.Preferences,
    reviser: ali.Maybe = None,
    out: ali.Kept = None,
    samples: ali.Samples = None,
    tokens: ali.Tokens = 256,
    temperature: ali.Temperature = 1.0,
    top_p: ali.TopP = 0.95,
    chat: ali.Chat = False,
    batch_size: ali.BatchSize = None,
    seed: opt.Seed = 42,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
) -> None:
    """Policies side by side on preferences that none has learned from.

    Example: `remodel align compare policy evolved by-dpo --preferences held-out.jsonl --reviser reviser`
    """
    given = dict(locals())
    from remodeler.alignment.judging.compare import compare_policies
    from remodeler.alignment.judging.results import CompareResults
    from remodeler.report.figures import comparison, written

    drawn = comparison(CompareResults.parse(compare_policies(ali.compare_wish(given), out)).figures())
    if drawn:
        from remodeler.cli.screen import table

        names, rows = written(drawn)
        table("", names[:-1], [row[:-1] for row in rows])
    if out:
        places(out, "record.json, report.html, answers-1.jsonl, ...")
