"""The pages that map the research scripts to snvrag name only what exists."""

import ast
import io
import re
from contextlib import redirect_stdout
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from snvrag.cli.app import run
from snvrag.config import (
    DEFAULT_LOG_EVERY,
    PRESET_TRAINING,
    PRESETS,
    MaskConfig,
    ModelConfig,
    TrainConfig,
    WindowConfig,
)

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guide.md"
RULES = ROOT / "docs" / "rules.md"
ORIGINAL = ROOT.parent / "shared" / "original_guide.zh.txt"
COMMANDS = ("convert", "windows", "build-index", "train", "verify", "impute", "evaluate")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z_-]*")


def tables(path):
    """Rows of cells of every table of a page, headings and rules left out."""
    for block in re.findall(r"(?:^\|.*\n)+", path.read_text(), flags=re.M):
        rows = [[c.strip() for c in line.strip("|\n ").split("|")] for line in block.splitlines()]
        yield rows[0], rows[2:]


@cache
def options_of(command):
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.setenv("COLUMNS", "200")
        assert run([command, "--help"]) == 0
    return set(OPTION.findall(out.getvalue()))


def test_every_option_the_guide_page_names_exists():
    """In the right-hand columns and in every command line of the text."""
    removed = {"--window-path"}
    known = set().union(*map(options_of, COMMANDS)) | {"--version"}
    text = re.sub(r"^\|[^|]*\|", "|", GUIDE.read_text(), flags=re.M)
    named = set(OPTION.findall(text)) - removed
    assert named >= {"--window-size", "--log-every"}
    assert named - known - {"--window_size"} == set()
    for command in COMMANDS:
        for line in re.findall(rf"`snvrag {command}\b([^`]*)`", GUIDE.read_text()):
            assert set(OPTION.findall(line)) <= options_of(command), line


def test_train_has_every_option_of_the_guide():
    (rows,) = (rows for head, rows in tables(GUIDE) if "base" in head)
    ours = {option for cells in rows for option in OPTION.findall(cells[2])}
    assert ours - {"--frequencies", "--populations"} <= options_of("train")
    assert len(ours) > 18


def test_the_table_shows_the_defaults_of_preset_base():
    (rows,) = (rows for head, rows in tables(GUIDE) if "base" in head)
    shown = {cells[2].strip("`"): cells[3] for cells in rows if cells[3]}
    values = {"log_every": DEFAULT_LOG_EVERY}
    for config in (WindowConfig(), MaskConfig(), PRESETS["base"], PRESET_TRAINING["base"]):
        values |= {field.name: getattr(config, field.name) for field in fields(config)}
    values |= {"gamma": values["focal_gamma"], "mask_levels": values["levels"]}
    values["mask_raise_every"] = values["raise_every"]
    for option, text in shown.items():
        value = values[option.removeprefix("--").replace("-", "_")]
        value = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
        assert text == value, option
    assert isinstance(PRESETS["base"], ModelConfig)
    assert isinstance(PRESET_TRAINING["base"], TrainConfig)


def test_every_option_and_log_line_of_the_original_guide_is_answered():
    if not ORIGINAL.exists():
        pytest.skip(f"the original guide is not at {ORIGINAL}")
    original, page = ORIGINAL.read_text(), GUIDE.read_text()
    theirs = set(OPTION.findall(original)) - {"--oneline", "--hard"}
    assert len(theirs) > 8
    assert {
        option for option in theirs if f"`{option}`" not in page and option not in page
    } == set()
    for line in ("样本数", "位点数", "耗时", "JIT索引构建", "Training dataset", "Window size"):
        assert line in original
        assert line in page
    for number in range(1, 6):
        assert f"### Q{number}:" in original
        assert f"**Q{number}. " in page


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    """Files, and headings of other pages by the anchors that GitHub gives them."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in anchors, target


@cache
def names_of_tests(name):
    tree = ast.parse((ROOT / "tests" / name).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_rule_names_a_test_that_exists_or_a_reason():
    (rows,) = (rows for head, rows in tables(RULES) if head[0] == "rule")
    assert [cells[0] for cells in rows] == [f"B{number}" for number in range(1, 59)]
    for number, what, held in rows:
        assert what, number
        named = re.findall(r"`(test_\w+\.py)::(\w+)`", held)
        assert named or held.startswith("left out: "), number
        for file, test in named:
            assert test in names_of_tests(file), f"{number}: {file}::{test}"
