"""Write docs/cli.md, the reference of the command line, from the commands themselves.

python docs/make_cli.py
"""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperOption

from snvrag.cli.app import app

PAGE = Path(__file__).with_name("cli.md")
MAKE = "python docs/make_cli.py"
_MAIN = "Main options"
_HEAD = f"""# Command line

<!-- Written by `{MAKE}` from the commands themselves; do not edit. -->

The commands in the order of work; `snvrag COMMAND --help` says the same on a terminal.

| command | what it does |
|---|---|
"""
_CODES = """
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | the work failed, or a check of `verify` did |
| 2 | bad usage or bad input: one line `error:` and one `hint:` on stderr; nothing was written |
| 130 | interrupted (Ctrl-C); temporary files are removed |
| 143 | terminated (SIGTERM), likewise |

## Output

Results go to stdout, everything else to stderr. On a terminal there is one live bar, gone at the
end, and colour, which `NO_COLOR=1` switches off; elsewhere, and with `TERM=dumb`, there are plain
lines, and one of progress every half minute. With `--json`, stdout is one JSON object and nothing
else. The first run of an installation compiles kernels, and says so.

## Completion

`snvrag --install-completion` sets up completion of commands, options and their values for bash,
zsh, fish or PowerShell, whichever it is called from; `snvrag --show-completion` prints the script
instead.
"""


def reference() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="snvrag")
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    rows = [f"| [`{c.name}`](#{c.name}) | {_cell(c.help)} |" for c in commands]
    sections = [_section(command, context) for command in commands]
    return _HEAD + "\n".join(rows) + "\n" + "\n".join([_CODES, *sections])


def _section(command: Any, parent: typer.Context) -> str:
    context = typer.Context(command, info_name=command.name, parent=parent)
    pieces = " ".join(command.collect_usage_pieces(context))
    usage = f"snvrag {command.name} {re.sub('[{}]', '', pieces)}"
    lines = [f"## {command.name}", "", command.help.strip(), "", "```", usage, "```", ""]
    shown = [
        p
        for p in command.get_params(context)
        if p.name != "help" and not getattr(p, "hidden", False)
    ]
    arguments = [p for p in shown if isinstance(p, TyperArgument)]
    if arguments:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| `{a.metavar}` | {_meaning(a)} |" for a in arguments]
        lines.append("")
    groups: dict[str, list[TyperOption]] = {}
    for option in shown:
        if isinstance(option, TyperOption):
            groups.setdefault(option.rich_help_panel or _MAIN, []).append(option)
    for name, options in groups.items():
        lines += [f"| {name} | meaning | default |", "|---|---|---|"]
        lines += [f"| {_names(o)} | {_meaning(o)} | {_default(o)} |" for o in options]
        lines.append("")
    examples = command.epilog.splitlines()[1:]
    return "\n".join([*lines, "Examples:", "", "```sh", *examples, "```", ""])


def _names(option: TyperOption) -> str:
    value = f" {option.metavar}" if option.metavar else ""
    *shorter, last = sorted(option.opts, key=len)
    return ", ".join([*(f"`{name}`" for name in shorter), f"`{last}{value}`"])


def _meaning(parameter: Any) -> str:
    needed = isinstance(parameter, TyperOption) and parameter.required
    return _cell(parameter.help) + (" Required." if needed else "")


def _default(option: TyperOption) -> str:
    if isinstance(option.show_default, str):
        return _cell(option.show_default)
    plain = option.default is None or option.is_flag or option.count or option.required
    return "" if plain else f"{option.default}"


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|").replace("<=", "≤")


def main() -> None:
    """Write the page."""
    PAGE.write_text(reference(), encoding="utf-8")
    print(f"wrote {shlex.quote(str(PAGE))}", file=sys.stderr)


if __name__ == "__main__":
    main()
