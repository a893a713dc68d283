"""``remodel audit`` itself, for texts and models, and ``remodel audit lexicon``: paths in, paths out, no logic."""

from typing import Any

from remodeler.cli import options as opt
from remodeler.cli import options_audit_run as run_options


def run(
    model: run_options.Model = None,
    texts: run_options.Texts = None,
    prompts: run_options.Prompts = None,
    against: run_options.Against = None,
    out: run_options.Out = None,
    prompt_words: run_options.Words = None,
    limit: run_options.Limit = None,
    skip_bad: run_options.SkipBad = False,
    tokens: run_options.Tokens = 64,
    temperature: run_options.Temperature = 1.0,
    top_p: run_options.TopP = 1.0,
    samples: run_options.Samples = 1,
    chat: run_options.Chat = False,
    batch_size: run_options.BatchSize = None,
    seed: run_options.Seed = 42,
    detector: run_options.Detector = "lexicon",
    threshold: run_options.Threshold = None,
    labels: run_options.Labels = "",
    whole: run_options.Whole = False,
    show_quotes: run_options.Quotes = False,
    revision: opt.Revision = None,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    dry_run: opt.DryRun = False,
) -> None:
    """Find and count toxic spans: in texts, or in what a model writes, alone or against another.

    With several completions of a prompt (`--samples`), intervals and the test go by prompt. Counts are printed, not
    quotes; the report blurs what offends. Interrupted? The same command goes on.

    Examples: `remodel audit --texts posts.csv`, `remodel audit dense --against pruned --prompts p.txt --out seen`
    """
    given = dict(locals())
    from remodeler.auditing.job import audit

    made = audit(run_options.wish_of(given), out, dry_run)
    if made is None:
        return
    _told(made[0])
    if show_quotes:
        _quoted(made[1])
    if out:
        _places(out)


def lexicon(
    texts: run_options.Learned,
    out: run_options.File,
    rate: run_options.Rate = 0.6,
    hits: run_options.Hits = 3,
    without: run_options.Without = "",
    hashed: run_options.Hashed = False,
    skip_bad: run_options.SkipBad = False,
) -> None:
    """Learn a lexicon: words that are mostly inside toxic spans wherever they occur.

    Example: `remodel audit lexicon --texts tsd_train.csv --out words.json`
    """
    from remodeler.auditing.detectors.lexicon import make
    from remodeler.cli.screen import note

    words = make(texts, out, rate, hits, [each.strip().lower() for each in without.split(",")], hashed, skip_bad)
    note(f"{out}: {words} words")


def _told(record: Any) -> None:
    """The counts."""
    from remodeler.auditing.results import AuditResults
    from remodeler.cli.screen import table

    table("", *AuditResults.parse(record).table())


def _quoted(found: Any) -> None:
    """What was found, as it stands."""
    from remodeler.auditing.statistics.counting import quotes
    from remodeler.cli.screen import say

    for line in quotes(found):
        say(line)


def _places(out: Any) -> None:
    from remodeler.cli.screen import note

    note(f"{out}: report.html, README.md, record.json, {', '.join(sorted(path.name for path in out.glob('*.jsonl')))}")
