"""The tagger: auxiliary information, padding on either side, long texts, files, and training that can be killed."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from remodeler.auditing.formats.posts import Post
from remodeler.auditing.spans import Span, mask
from remodeler.auditing.statistics.scoring import score
from remodeler.auditing.tagger import train as training
from remodeler.auditing.tagger.auxiliary import AUXILIARIES, FeatureInputs, layer_attention, layer_weights
from remodeler.auditing.tagger.config import AUXILIARIES as AUXILIARY_NAMES
from remodeler.auditing.tagger.config import LOSSES, OUTPUTS, HeadConfig, TrainConfig, TrainingConfig
from remodeler.auditing.tagger.config import SCHEMES as SCHEME_NAMES
from remodeler.auditing.tagger.files import LoadedTagger, TaggerSettings, load_tagger, new_tagger, save_tagger
from remodeler.auditing.tagger.labels import SCHEMES, tokenize_texts
from remodeler.auditing.tagger.losses import TAG_LOSSES
from remodeler.auditing.tagger.model import collate
from remodeler.auditing.tagger.plan import Plan
from remodeler.auditing.tagger.predict import character_likelihoods, detector, predict
from remodeler.auditing.tagger.quantised import Int8Linear, quantise
from remodeler.auditing.tagger.rules import Rules
from remodeler.auditing.tagger.train import train, training_examples
from remodeler.errors import InputError
from remodeler.runs.records import read_lines
from tiny_encoders import ENCODERS, tiny_encoder

TEXTS = ["the cat sat on the mat", "dog", "", "a naïve dog and the log, as ever; the cat sat on the mat and the dog"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: tiny_encoder(name, root / name) for name in ENCODERS}


def tagger(folder: Path, length: int = 64, stride: int = 8, **head: object) -> LoadedTagger:
    found = new_tagger(str(folder), TaggerSettings(HeadConfig(**head), length=length, stride=stride), 0, "cpu")  # type: ignore[arg-type]
    found.model.eval()
    return found


# Auxiliary information ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("auxiliary", AUXILIARIES)
def test_every_way_on_every_family_reads_a_batch_as_its_texts_one_by_one(
    family: str, auxiliary: str, encoders: dict[str, Path]
) -> None:
    found = tagger(encoders[family], auxiliary=auxiliary, last_layers=2)
    together = character_likelihoods(found, TEXTS)
    for text, likely in zip(TEXTS, together, strict=True):
        assert likely.shape == (len(text),)
        assert np.allclose(character_likelihoods(found, [text])[0], likely, atol=1e-5)
    assert all(likely.max() > 0.1 for text, likely in zip(TEXTS, together, strict=True) if text)


@pytest.mark.parametrize("family", ENCODERS)
def test_the_summary_is_of_the_classification_token(family: str, encoders: dict[str, Path]) -> None:
    """Wherever it stands; XLNet has no pooler, so it gets a layer of its own."""
    found = tagger(encoders[family], auxiliary="cls-add")
    assert (found.model.summariser is not None) == (family == "xlnet")
    window = tokenize_texts([TEXTS[0]], found.tokenizer, 64, 8).windows[0]
    reads = collate([window], found.tokenizer, found.device)
    said = found.model.encoder(**reads.inputs, output_hidden_states=True)
    place = window.ids.index(found.tokenizer.cls_token_id)
    pool = found.model.summariser or (found.model.encoder.pooler if family == "albert" else None)
    state = said.last_hidden_state[:, place]
    wanted = torch.tanh(pool(state)) if pool is not None else said.pooler_output
    assert torch.allclose(found.model._summary(said, reads), wanted, atol=1e-6)
    assert place == (len(window.ids) - 1 if family == "xlnet" else 0)


def test_weights_of_layers_add_up_and_without_scores_are_equal() -> None:
    states = [torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(7)]
    scorer = torch.nn.Linear(8, 1)
    weights = layer_weights(torch.stack(states, 2), scorer)
    assert weights.shape == (2, 3, 7)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3))
    assert weights.std() > 0.01
    torch.nn.init.zeros_(scorer.weight)
    mean = torch.stack(states).mean(0)
    assert torch.allclose(layer_attention(FeatureInputs(states, None, scorer, 4)), mean, atol=1e-6)


def test_features_are_as_wide_as_their_row_says() -> None:
    states = [torch.randn(2, 3, 8) for _ in range(4)]
    given = FeatureInputs(states, torch.randn(2, 8), torch.nn.Linear(8, 1), 3)
    for name, row in AUXILIARIES.items():
        assert row.features(given).shape == (2, 3, 8 * row.width(3)), name
    with pytest.raises(InputError, match=r"`last_layers` must be <= 4, the layers of the encoder .got 5."):
        AUXILIARIES["last-k"].features(replace(given, last=5))


# Texts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_long_text_is_read_in_windows(output: str, scheme: str, encoders: dict[str, Path]) -> None:
    found = tagger(encoders["bert"], length=20, stride=8, output=output, scheme=scheme)
    long = " ".join(TEXTS) * 10
    likely = character_likelihoods(found, [long, "dog"])
    assert len(tokenize_texts([long], found.tokenizer, 20, 8).windows) > 5
    assert all(likely[0][place] > 0 for place, letter in enumerate(long) if not letter.isspace())
    assert np.allclose(likely[1], character_likelihoods(found, ["dog"])[0], atol=1e-6)


def test_a_detector_finds_sorted_disjoint_spans_inside_the_text(encoders: dict[str, Path]) -> None:
    for family, output in itertools.product(("bert", "xlnet"), OUTPUTS):
        found = tagger(encoders[family], output=output, scheme="bio")
        found = replace(found, settings=replace(found.settings, rules=Rules(threshold=0.6)))
        for text, spans in zip(TEXTS, detector(found)(TEXTS), strict=True):
            assert all(0 <= span.start < span.end <= len(text) for span in spans)
            assert all(one.end < two.start for one, two in itertools.pairwise(spans))


def test_viterbi_is_sure(encoders: dict[str, Path]) -> None:
    found = tagger(encoders["bert"], output="crf")
    sure = replace(found, settings=replace(found.settings, rules=Rules(decode="viterbi")))
    for likely in character_likelihoods(sure, TEXTS):
        assert set(likely.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("family", ENCODERS)
def test_int8_is_near_and_not_the_same(family: str, encoders: dict[str, Path]) -> None:
    exact, rounded = tagger(encoders[family]), tagger(encoders[family])
    quantise(rounded.model.encoder)
    both = zip(character_likelihoods(exact, TEXTS), character_likelihoods(rounded, TEXTS), strict=True)
    far = [np.abs(one - two).max(initial=0) for one, two in both]
    assert 0 < max(far) < 0.02


def test_an_int8_layer_is_the_layer_up_to_rounding() -> None:
    torch.manual_seed(0)
    layer, given = torch.nn.Linear(64, 32), torch.randn(3, 5, 64)
    with torch.inference_mode():
        wanted, found = layer(given), Int8Linear(layer)(given)
    assert (found - wanted).norm() < 0.02 * wanted.norm()
    with pytest.raises(InputError, match="`int8=True` was given on meta"):
        quantise(torch.nn.Linear(2, 2, device="meta"))


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
def test_a_tagger_comes_back_from_its_folder(family: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    made = tagger(encoders[family], auxiliary="layer-attention-cls", output="crf", scheme="bio")
    made = replace(made, settings=replace(made.settings, rules=Rules(threshold=0.4, abstain=0.45)))
    save_tagger(made, tmp_path)
    found = load_tagger(tmp_path, "cpu")
    assert found.settings == made.settings
    for one, two in zip(predict(made, TEXTS), predict(found, TEXTS), strict=True):
        assert np.array_equal(one.likely, two.likely)
        assert one.spans == two.spans
    assert not list(tmp_path.glob("*.bin"))


def test_folders_that_are_no_taggers(encoders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no tagger\.json"):
        load_tagger(encoders["bert"])
    save_tagger(tagger(encoders["bert"]), tmp_path / "made")
    with pytest.raises(InputError, match="is a tagger already"):
        new_tagger(str(tmp_path / "made"), TaggerSettings(), 0)
    (tmp_path / "made" / "tagger.json").write_text("{}")
    with pytest.raises(InputError, match="is not a tagger's"):
        load_tagger(tmp_path / "made")
    save_tagger(tagger(encoders["bert"], output="crf"), tmp_path / "other")
    settings = json.loads((tmp_path / "other" / "tagger.json").read_text())
    wrong = settings | {"rules": settings["rules"] | {"threshold": 1.5}}
    (tmp_path / "other" / "tagger.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match="`threshold` must be >= 0 and <= 1"):
        load_tagger(tmp_path / "other")
    (tmp_path / "other" / "tagger.json").write_text(json.dumps(settings))
    (tmp_path / "other" / "head.safetensors").unlink()
    with pytest.raises(InputError, match=r"the head of .* can't be loaded"):
        load_tagger(tmp_path / "other")


def test_an_encoder_without_a_fast_tokenizer_is_refused(
    encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", property(lambda self: False))
    with pytest.raises(InputError, match="has no fast tokenizer"):
        tagger(encoders["bert"])


@pytest.mark.parametrize("wrong", [{"auxiliary": "magic"}, {"output": "lstm"}, {"scheme": "x"}, {"last_layers": 0}])
def test_heads_that_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        HeadConfig(**wrong)  # type: ignore[arg-type]


# Training -------------------------------------------------------------------------------------------------------------


def posts(count: int) -> list[Post]:
    """Texts in which ``dog`` is what is meant."""
    words, generator = ["the", "cat", "sat", "on", "mat", "dog", "log"], np.random.default_rng(0)
    found = []
    for number in range(count):
        text = " ".join(generator.choice(words, int(generator.integers(1, 12))))
        places = [place for place in range(len(text)) if text.startswith("dog", place)]
        found.append(Post(text, tuple(Span(place, place + 3) for place in places), number + 1))
    return found


TRAINING = TrainingConfig(epochs=3, train_batch_size=4, learning_rate=3e-3, head_rate=1e-2, seed=5)


def trained(
    encoder: Path, folder: Path, config: TrainingConfig = TRAINING, **head: object
) -> tuple[Path, list[dict[str, object]]]:
    made = tagger(encoder, **head)
    return train(made, training_examples(made, posts(60), None, 0), posts(30), config, folder, {"run": 1})


@pytest.mark.parametrize("family", ENCODERS)
def test_it_learns_what_is_meant(family: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    """Control: before training it is far off."""
    head = {"output": "crf", "auxiliary": "layer-attention-cls"}
    best, lines = trained(encoders[family], tmp_path, replace(TRAINING, epochs=6), **head)
    looks = [line["dev_f1"] for line in lines if "dev_f1" in line]
    assert len(looks) == 6
    assert max(looks) > 0.8
    found = load_tagger(best, "cpu")
    spans = [[(span.start, span.end) for span in each.spans] for each in predict(found, ["the dog sat", "the cat"])]
    assert spans == [[(4, 7)], []]
    untaught = detector(tagger(encoders[family], **head))([post.text for post in posts(30)])
    assert score(untaught, [list(post.spans or ()) for post in posts(30)]).f1 < 0.5


@pytest.mark.parametrize("loss", ["cross-entropy", "dice", "focal"])
def test_every_loss_falls(loss: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    _, lines = trained(encoders["bert"], tmp_path, replace(TRAINING, loss=loss, epochs=4), scheme="bio")
    values = [float(line["loss"]) for line in lines]  # type: ignore[arg-type]
    assert np.mean(values[-8:]) < 0.6 * np.mean(values[:8])


@pytest.fixture(scope="module")
def uncut(encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed."""
    return trained(encoders["bert"], tmp_path_factory.mktemp("runs") / "uncut", output="crf")[0]


@pytest.mark.parametrize("stop", [1, 15, 31])
def test_a_killed_run_goes_on_to_the_same_weights(
    stop: int, uncut: Path, encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TRAINING, save_minutes=0)
    real, calls = training._step, itertools.count()

    def killed(run: training.Run, step: int) -> tuple[float, float]:
        if next(calls) == stop:
            raise KeyboardInterrupt
        return real(run, step)

    monkeypatch.setattr(training, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(encoders["bert"], tmp_path, config, output="crf")
    monkeypatch.setattr(training, "_step", real)
    found, _ = trained(encoders["bert"], tmp_path, config, output="crf")
    assert found.name == uncut.name
    for file in ("model.safetensors", "head.safetensors", "tagger.json"):
        assert (uncut / file).read_bytes() == (found / file).read_bytes()
    one, two = (read_lines(folder / "training.jsonl") for folder in (uncut.parent, tmp_path))
    assert [{**line, "seconds": 0} for line in one] == [{**line, "seconds": 0} for line in two]


def test_another_seed_is_another_run_and_another_head(encoders: dict[str, Path], tmp_path: Path) -> None:
    one, two = (new_tagger(str(encoders["bert"]), TaggerSettings(), seed, "cpu").model for seed in (1, 2))
    assert not torch.equal(one.classifier.weight, two.classifier.weight)
    again = new_tagger(str(encoders["bert"]), TaggerSettings(), 1, "cpu").model
    assert torch.equal(one.classifier.weight, again.classifier.weight)
    trained(encoders["bert"], tmp_path)
    made = tagger(encoders["bert"])
    with pytest.raises(InputError, match="holds another training run"):
        train(made, training_examples(made, posts(60), None, 0), posts(30), TRAINING, tmp_path, {"run": 2})


def test_a_plan_reads_every_window_once_an_epoch(encoders: dict[str, Path]) -> None:
    made = tagger(encoders["bert"])
    windows = training_examples(made, posts(60), None, 0).pieces.windows
    plan = Plan(replace(TRAINING, tokens_per_step=60), windows)
    for epoch in range(3):
        steps = [plan.step(number) for number in range(plan.ends[epoch], plan.ends[epoch + 1])]
        assert sorted(number for step in steps for number in step) == list(range(60))
        assert all(len(step) * max(len(windows[each].ids) for each in step) <= 60 for step in steps)
    assert plan.step(0) != plan.step(plan.ends[1])
    rates = [plan.rate(step) for step in range(plan.steps)]
    assert rates[0] < rates[3] < max(rates) <= 1
    assert 0 < rates[-1] < 0.1


def test_clipping_comes_before_the_step_and_only_matrices_decay(encoders: dict[str, Path]) -> None:
    made = tagger(encoders["bert"], output="crf")
    optimizer = training._optimizer(made, TRAINING)
    names = {id(value): name for name, value in made.model.named_parameters()}
    for group in optimizer.param_groups:
        for value in group["params"]:
            name = names[id(value)]
            assert (group["full_rate"] == TRAINING.learning_rate) == name.startswith("encoder.")
            decays = value.dim() > 1 and not name.startswith("chain.")
            assert (group["weight_decay"] > 0) == decays, name
            assert not (decays and ("bias" in name or "LayerNorm" in name))
    examples, config = training_examples(made, posts(8), None, 0), replace(TRAINING, clip=1e-6, weight_decay=0.0)
    plan = Plan(config, examples.pieces.windows)
    sgd = torch.optim.SGD([{"params": list(made.model.parameters()), "full_rate": 1.0}])
    learner = training.Learner(dict(made.model.named_parameters()), sgd)
    run = training.Run(made, examples, [], config, plan, learner, Path())
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    _, norm = training._step(run, 0)
    moved = torch.stack([(value - before[name]).norm() for name, value in made.model.named_parameters()]).norm()
    assert norm > 1e-3
    assert moved.item() <= 1.01e-6 * plan.rate(0)


def test_a_teacher_is_followed(encoders: dict[str, Path], tmp_path: Path) -> None:
    """It says ``cat`` where gold says ``dog``; the share decides whom the student believes."""
    given = posts(60)
    taught = []
    for post in given:
        places = [place for place in range(len(post.text)) if post.text.startswith("cat", place)]
        taught.append(0.9 * mask([Span(place, place + 3) for place in places], len(post.text)))
    for share, word in ((0.9, "cat"), (0.1, "dog")):
        made = tagger(encoders["bert"])
        followed = training_examples(made, given, taught, share)
        assert followed.soft
        train(made, followed, posts(10), replace(TRAINING, epochs=6), tmp_path / word, {"share": share})
        likely = character_likelihoods(made, ["the cat sat on the dog"])[0]
        assert (likely[4] > 0.5, likely[19] > 0.5) == (word == "cat", word == "dog")


def test_training_options_that_are_refused() -> None:
    for wrong in ({"epochs": 0}, {"loss": "mse"}, {"warmup": 2.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TrainingConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`teacher_share` must be >= 0 and <= 1"):
        TrainConfig(texts=Path("t"), encoder="e", out=Path("o"), teacher_share=-0.1)


def test_help_names_what_the_tables_hold() -> None:
    assert tuple(AUXILIARIES) == AUXILIARY_NAMES
    assert tuple(SCHEMES) == SCHEME_NAMES
    assert tuple(TAG_LOSSES) == LOSSES


def test_settings_on_disk_are_readable(encoders: dict[str, Path], tmp_path: Path) -> None:
    save_tagger(tagger(encoders["bert"], scheme="bio"), tmp_path)
    value = json.loads((tmp_path / "tagger.json").read_text())
    assert value["head"]["scheme"] == "bio"
    assert value["rules"]["threshold"] == 0.5
