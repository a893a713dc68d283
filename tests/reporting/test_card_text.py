"""Any name in a model card: it reads as it is, and the card around it stays whole."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from remodeler.merging.results import distinct, shares_by_layer
from remodeler.pruning.results import PruneResults
from remodeler.reporting.card import loading_lines, page
from remodeler.reporting.card_data import inherited_metadata
from remodeler.reporting.card_text import code, fenced, markdown, plain
from remodeler.reporting.plots import figure_name, shares_svg, tradeoffs_svg
from remodeler.runs.records import Record, load_record, read_lines, save_record
from remodeler.runs.records import append_line as append
from remodeler.runs.streams import UNSEEN

NAMES = ["a|b`c", "[v2](x)", "a: b", "- [x]", "<b>*bold*</b>", "``` code", "new\nline", "_x_ # y", ":smile:", "'"]
ODD_NAMES = ["東京", "no", "{{ tags }}", "a\u2028b\x85c", "\u202eturned", "\x1b[31m", "x" * 300]


def record(name: str) -> Record:
    measured = {"parameters": 10, "perplexity": 2.0}
    results = {"dense": measured, "pruned": measured, "removed": ["mlp.1"], "blocks": 8, "form": "stock"}
    results |= {"auto_class": "AutoModelForCausalLM", "pipeline_tag": "text-generation"}
    warned = {"text": f"{name} is ruined", "command": f"remodel cut '{name}'"}
    results |= {"command": f"remodel prune '{name}'", "warning": warned}
    return Record("prune", {"method": name, "texts": name}, {"model": {"name": name}}, 1, {}, results)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_holds_any_name(name: str) -> None:
    text = PruneResults.parse(record(name)).card(record(name))
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == name
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, "a row has as many cells as the others"
    assert "# " + plain(f"{name}, pruned") in body.splitlines()
    fences = [line for line in body.splitlines() if re.match("`{3,}(python)?$", line)]
    assert len(fences) == 6, "three blocks of code, each with its two ends"


@pytest.mark.parametrize("name", [*NAMES, *ODD_NAMES])
def test_a_card_read_back_by_the_hub_library_has_the_same_data(name: str, tmp_path: Path) -> None:
    data = ModelCardData(base_model=name, language=["en", "no"], license="mit", license_name=name, tags=["pruned"])
    text = page(data, name, ["story"], ["load"], "remodel")
    (tmp_path / "README.md").write_text(text, "utf-8")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.to_dict() == data.to_dict()
    assert loaded.data.base_model == name
    assert not UNSEEN.search(text.replace("\n", "")), "what turns text round or hides in it stands as an escape"


def test_signs_of_markdown_are_escaped_and_others_are_not() -> None:
    assert plain("stories_15m v1.5-chat (base)") == "stories_15m v1.5-chat (base)"
    assert plain("[v2] *x* <b> `c` _d_ :smile: C#") == r"\[v2\] \*x\* \<b\> \`c\` \_d\_ \:smile: C\#"
    assert plain("a\nb") == r"a\\nb"


def test_code_has_longer_fences_than_what_is_in_it() -> None:
    assert code("x") == "`x`"
    assert code("a`b") == "``a`b``"
    assert code("`a``") == "``` `a`` ```"
    assert fenced(["a", "```", "b"]) == ["````", "a", "```", "b", "````"]


def test_a_cell_ends_where_it_should() -> None:
    assert markdown(["a", "b|c"], [["1\n2", "3"]]) == ["| a | b\\|c |", "| --- | --- |", "| 1\\n2 | 3 |"]


def test_the_lines_that_load_adapters_are_python_for_any_name() -> None:
    lines = loading_lines("adapters", "AutoModelForCausalLM", 'a"b\\c')
    assert 'AutoModelForCausalLM.from_pretrained("a\\"b\\\\c")' in lines[4]
    compile("\n".join(lines[1:-1]), "card", "exec")


def test_a_source_card_that_is_no_yaml_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert inherited_metadata(tmp_path) == {}


@pytest.mark.parametrize(
    ("card_of_source", "kept"),
    [
        ("---\nlicense: mit\nlanguage: no\n---\n", {"license": "mit", "language": "no"}),
        ("\ufeff---\r\nlanguage:\r\n- en\r\n- no\r\n---\r\n", {"language": ["en", "no"]}),
        ("---\nlicense: 2024-13-45\nlanguage: 1.0\n---", {"license": "2024-13-45", "language": "1.0"}),
        ("# Title\n\n---\nlicense: mit\n---\n", {}),  # a rule in the text
        ("---\nlicense: mit\n\n# Title\n", {}),  # never closed
        ("---\nlicense: {a: b}\nlanguage: [[en]]\nlicense_name:\n---\n", {}),
        ("---\nlicense: &a [*a]\n---\n", {}),
    ],
)
def test_a_source_card_is_read_as_the_hub_reads_it(tmp_path: Path, card_of_source: str, kept: dict[str, Any]) -> None:
    (tmp_path / "README.md").write_bytes(card_of_source.encode())
    assert inherited_metadata(tmp_path) == kept


def test_of_a_source_card_only_the_head_is_read(tmp_path: Path) -> None:
    with (tmp_path / "README.md").open("wb") as file:
        file.write(b"---\nlicense: mit\n---\n")
        file.truncate(2**40)
    assert inherited_metadata(tmp_path) == {"license": "mit"}


def test_figures_show_any_name_and_drop_none() -> None:
    names = ["_hidden", "$a$", "$unclosed", "a_b^{", "東京", "esc\x1b[31m", "x" * 300, "<i>&amp;"]
    curves = {name: [(0.0, 5.0 + place), (0.2, 9.0 + place)] for place, name in enumerate(names)}
    for svg in (tradeoffs_svg(curves), shares_svg({name: [(0, 0.5), (1, 0.5)] for name in names})):
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        for shown in ("_hidden", "$a$", "$unclosed", "a_b^{", "東京", r"esc\x1b[31m", "&lt;i&gt;&amp;amp;"):
            assert shown in texts, shown
    assert figure_name("x" * 300) == f"{'x' * 20} … {'x' * 17}"


def test_a_record_holds_what_no_json_has_a_word_for(tmp_path: Path) -> None:
    results = {"perplexity": float("inf"), "bits": [1.0, float("nan")], "name": "z\udcff"}
    save_record(tmp_path, Record("evaluate", {}, {}, 1, {}, results))
    assert load_record(tmp_path).results == {"perplexity": None, "bits": [1.0, None], "name": "z\udcff"}
    append(tmp_path / "log.jsonl", {"name": "z\udcff"})
    assert read_lines(tmp_path / "log.jsonl") == [{"name": "z\udcff"}]


def test_models_of_one_name_have_a_curve_each() -> None:
    assert distinct(["a/model", "b/model", "other"]) == ["a/model", "b/model", "other"]
    assert distinct(["same", "same"]) == ["same 1", "same 2"]
    lines = [{"name": f"layers.{layer}.w", "shares": [0.25, 0.75]} for layer in range(2)]
    drawn = shares_by_layer(lines, {f"model {number}": {"name": f"{number}/model"} for number in (1, 2)})
    assert drawn is not None
    assert "1/model" in drawn
    assert "2/model" in drawn
