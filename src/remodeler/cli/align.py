"""The verbs ``remodel align train-reviser``, ``revise``, ``evolve``, ``baseline`` and ``run``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from remodeler.alignment.baselines.config import BaselineConfig
from remodeler.alignment.config import POLICY, AlignConfig, EvolveConfig, ReviseConfig, ReviserConfig
from remodeler.cli.result import publish_later
from remodeler.cli.screen import note, table

if TYPE_CHECKING:
    from remodeler.alignment.evolution.results import EvolveResults


def train_reviser(config: ReviserConfig) -> None:
    """Train a reviser, and say where it is."""
    with publish_later(config.run):
        from remodeler.alignment.reviser.train import train_reviser_model

        if train_reviser_model(config):
            note(f"{config.run.out}: the reviser, report.html, difficulty.jsonl, training.jsonl, record.json")


def revise(config: ReviseConfig) -> None:
    """Revise responses, and show how many have which label."""
    from remodeler.alignment.reviser.revise import revise_responses

    results = revise_responses(config)
    if results is not None:
        table("", ["label", "responses"], [[label, str(count)] for label, count in results.labels.items()])
        note(f"{config.run.out}: revisions.jsonl, report.html, record.json")


def evolve(config: EvolveConfig) -> None:
    """Evolve a policy, and show its rounds."""
    with publish_later(config.run):
        from remodeler.alignment.evolution.job import evolve_policy

        results = evolve_policy(config)
        if results is not None:
            _show_rounds(results)
            note(f"{config.run.out}: the policy, report.html, round-1.jsonl, ..., record.json")


def train_baseline(config: BaselineConfig) -> None:
    """Train a baseline, and say where it is."""
    with publish_later(config.run):
        from remodeler.alignment.baselines.job import train_baseline_policy

        if train_baseline_policy(config):
            note(f"{config.run.out}: the policy, report.html, training.jsonl, record.json")


def align(config: AlignConfig) -> None:
    """Train a reviser, evolve a policy with it, and show the rounds; what is published is the policy."""
    policy = replace(config.run, out=(config.run.out or Path()) / POLICY)
    with publish_later(policy):
        from remodeler.alignment.job import align_policy

        results = align_policy(config)
        if results is not None:
            _show_rounds(results.policy)
            note(f"{config.run.out}: reviser, policy, each with its report.html and record.json")


def _show_rounds(results: "EvolveResults") -> None:
    table("", *results.narrow_table())
