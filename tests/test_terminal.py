"""What every command writes: on a terminal of 80 columns, elsewhere, and with --json."""

import importlib.util
import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from conftest import mosaic, write_vcf

from snvrag.cli.app import app, run
from snvrag.config import PRESETS
from snvrag.example import DATA
from snvrag.vcf import DosageReader

ROOT = Path(__file__).resolve().parents[1]
GROUP = typer.main.get_command(app)
CONTEXT = typer.Context(GROUP, info_name="snvrag")
COMMANDS = GROUP.list_commands(CONTEXT)
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
COLOUR = re.compile(r"\x1b\[[\d;]*3[1-8](;|m)")
WINDOWS = ["--window-size", "60", "--max-seq-len", "64"]


def lines_of(command):
    """The example lines of a command's help page."""
    epilog = GROUP.get_command(CONTEXT, command).epilog or ""
    return epilog.splitlines()[1:]


def test_commands_are_listed_in_the_order_of_work():
    order = [
        "convert",
        "windows",
        "build-index",
        "train",
        "verify",
        "impute",
        "merge",
        "evaluate",
        "report",
    ]
    assert [name for name in COMMANDS if name in order] == order


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns_and_ends_with_examples(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*([command] if command else []), "--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert not CONTROL.search(out)
    assert "<bool>" not in out
    if command:
        examples = lines_of(command)
        assert examples, f"{command}: add lines to snvrag/cli/examples.py"
        assert [line.strip() for line in out.strip().splitlines()[-len(examples) :]] == examples


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_understood(command):
    for line in lines_of(command):
        program, name, *words = shlex.split(line)
        assert program == "snvrag"
        GROUP.get_command(CONTEXT, name).make_context(name, words, parent=CONTEXT)


def on_a_terminal(*words, cwd, **environment):
    """Exit code, and all that a process writes to a terminal of 80 columns."""
    lead, follow = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "snvrag", *words],
        stdin=follow,
        stdout=follow,
        stderr=follow,
        cwd=cwd,
        env={**kept, "TERM": "xterm-256color", **environment},
    )
    os.close(follow)
    parts = []
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if select.select([lead], [], [], 1.0)[0]:
                parts.append(os.read(lead, 1 << 16))
        except OSError:  # the other end is closed
            break
    os.close(lead)
    return process.wait(timeout=60), b"".join(parts).decode().replace("\r\n", "\n")


def test_a_terminal_gets_a_panel_and_the_next_command_to_paste(tmp_path):
    write_vcf(tmp_path / "p.vcf", mosaic(12, 70))
    words = ["convert", "p.vcf", "-o", "my panel.h5"]
    code, text = on_a_terminal(*words, cwd=tmp_path)
    assert code == 0
    plain = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", text)
    assert "╭─ snvrag convert ─" in plain
    assert plain.splitlines()[-1] == "next: snvrag train 'my panel.h5'"
    assert max(map(len, plain.splitlines())) <= 80
    assert COLOUR.search(text)
    code, text = on_a_terminal(*words, cwd=tmp_path)
    assert code == 2
    assert text.startswith("\x1b[1;31merror:\x1b[0m my panel.h5 exists already\n\x1b[1;36mhint:")
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        code, text = on_a_terminal("windows", "--total-snps", "999", cwd=tmp_path, **environment)
        assert code == 0
        assert not COLOUR.search(text)
        code, text = on_a_terminal(*words, cwd=tmp_path, **environment)
        assert text == "error: my panel.h5 exists already\nhint: add --force to replace it\n"


REGION = "22:20000000-20200000"
QUICK = [*WINDOWS, "--dims", "16", "--layers", "1", "--epochs", "1", "--epoch-batches", "2"]
QUICK += ["--warmup-steps", "1", "--validation-items", "20"]
IMPUTE = ["impute", "target.vcf.gz", "-r", "panel.h5", "--hds"]
SESSION = {
    "convert": ["convert", "panel.vcf.gz", "-o", "panel.h5", "-r", REGION],
    "windows": ["windows", "panel.h5", *WINDOWS],
    "build-index": ["build-index", "panel.h5", *WINDOWS],
    "train": ["train", "panel.h5", "-o", "run", "--preset", "light", *QUICK],
    "verify": ["verify", "panel.h5.index", "--deep"],
    "impute": [*IMPUTE, "-S", "first.txt", "-o", "a.vcf.gz"],
    "impute the others": [*IMPUTE, "-S", "^first.txt", "-o", "b.vcf.gz"],
    "merge": ["merge", "a.vcf.gz", "b.vcf.gz", "-o", "all.vcf.gz"],
    "evaluate": ["evaluate", "all.vcf.gz", "truth.vcf.gz", "-r", "panel.h5"],
    "evaluate, to a file": [
        *("evaluate", "all.vcf.gz", "truth.vcf.gz", "-r", "panel.h5", "-o", "e.json", "--force"),
    ],
    "report": ["report", "e.json", "run", "-o", "report.html"],
}


def test_every_command_off_a_terminal(tmp_path, monkeypatch, capsys):
    """With --json one object; else lines of 80 columns, a summary last; never a control code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for file in DATA.iterdir():
        Path(file.name).symlink_to(file)
    with DosageReader(Path("target.vcf.gz")) as reader:
        Path("first.txt").write_text("\n".join(reader.samples[:10]))
    for name, words in SESSION.items():
        assert run([*words, "--json", "--log-file", "log.txt", "-v"]) == 0, name
        told = capsys.readouterr()
        assert isinstance(json.loads(told.out), dict), name
        assert not CONTROL.search(told.out + told.err), name
        assert run([*words, "--force"]) == 0, name
        told = capsys.readouterr()
        assert not CONTROL.search(told.out + told.err), name
        lines = told.out.splitlines()
        assert max(map(len, lines)) <= 80, name
        last = lines[-1]
        assert last.startswith("next: "), name
        following = shlex.split(last.removeprefix("next: ").split(" | ")[0])
        assert following[0] in {"snvrag", "bcftools", "python"}, name
        if following[0] == "snvrag":
            command = GROUP.get_command(CONTEXT, following[1])
            command.make_context(following[1], following[2:], parent=CONTEXT)
        if any(line.startswith("wrote ") for line in lines):
            wrote = next(line.split()[1] for line in lines if line.startswith("wrote "))
            assert Path(wrote).exists(), name
    log = Path("log.txt").read_text()
    assert "first optimiser step" in log
    assert run([*SESSION["evaluate"], "-q", "--no-progress"]) == 0
    told = capsys.readouterr()
    assert "aggregate r²" in told.out
    assert "next: " not in told.out
    assert told.err == ""
    assert not CONTROL.search(log)


def test_shells_complete_commands_options_and_values(tmp_path):
    def completed(line):
        words = line.split(" ")
        environment = {
            **os.environ,
            "_SNVRAG_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        program = "import sys; sys.argv[0] = 'snvrag'; from snvrag.cli.entry import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.split()

    assert completed("snvrag ver") == ["verify"]
    assert completed("snvrag train --pre") == ["--preset"]
    assert completed("snvrag train --preset ") == ["auto", *PRESETS]
    assert completed("snvrag build-index --kind e") == ["embedding"]


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete -o"), ("zsh", "#compdef snvrag")])
def test_completion_scripts(shell, word):
    program = "import sys; sys.argv[0] = 'snvrag'; from snvrag.cli.entry import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "_SNVRAG_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert word in done.stdout


def test_the_reference_is_what_the_commands_say():
    where = ROOT / "docs" / "make_cli.py"
    spec = importlib.util.spec_from_file_location("make_cli", where)
    make_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_cli)
    same = make_cli.PAGE.read_text(encoding="utf-8") == make_cli.reference()
    assert same, f"docs/cli.md is not what the commands say: run {make_cli.MAKE}"
