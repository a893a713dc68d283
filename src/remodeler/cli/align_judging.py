"""The verbs ``remodel align answer``, ``judge`` and ``compare``."""

from remodeler.alignment.judging.config import AnswerConfig, CompareConfig, JudgeConfig
from remodeler.cli.evaluate import show_table
from remodeler.cli.screen import note, table
from remodeler.errors import quantity


def answer(config: AnswerConfig) -> None:
    """Answer questions, and say how many."""
    from remodeler.alignment.judging.job import answer_questions

    answers = answer_questions(config)
    note(f"{config.out}: {quantity(len(answers), 'answer')}")


def judge(config: JudgeConfig) -> None:
    """Judge answers, and show who is preferred."""
    from remodeler.alignment.judging.job import judge_answers

    for title, figures in judge_answers(config).items():
        table(title, ["", ""], [[name.replace("_", " "), f"{value:,.6g}"] for name, value in figures.items()])


def compare(config: CompareConfig) -> None:
    """Compare policies, and show them side by side."""
    from remodeler.alignment.judging.compare import compare_policies

    results = compare_policies(config)
    if results is not None:
        show_table(results)
        if config.run.out is not None:
            note(f"{config.run.out}: record.json, report.html, answers-1.jsonl, ...")
