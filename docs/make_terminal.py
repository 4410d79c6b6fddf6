"""Draw docs/terminal.svg: what a terminal shows of ``snvrag convert`` and ``impute``.

    python docs/make_terminal.py

The commands run in a terminal of 80 columns on the bundled example; the picture has no fonts or
other parts that a browser would fetch.
"""

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from snvrag.example import DATA

PICTURE = Path(__file__).with_name("terminal.svg")
COMMANDS = (
    "snvrag convert panel.vcf.gz -o panel.h5",
    "snvrag impute target.vcf.gz -r panel.h5 -o imputed.vcf.gz",
)
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def shown(command: str, folder: str) -> str:
    """What a terminal shows at a command's end, when its live bar is gone."""
    lead, follow = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split(), "--no-progress"],
        stdout=follow,
        stderr=follow,
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(follow)
    parts = []
    while True:
        try:
            parts.append(os.read(lead, 1 << 16))
        except OSError:  # the other end is closed
            break
    if process.wait():
        raise SystemExit(f"{command}: exit code {process.returncode}")
    return b"".join(parts).decode().replace("\r\n", "\n")


def main() -> None:
    """Run the commands and draw the picture."""
    console = Console(record=True, width=80, file=io.StringIO(), highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        for file in DATA.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            console.print(Text.from_ansi(shown(command, folder)))
    drawn = _FONTS.sub("", console.export_svg(title="snvrag")).replace("Fira Code", "monospace")
    PICTURE.write_text(drawn, encoding="utf-8")
    print(f"wrote {PICTURE}", file=sys.stderr)


if __name__ == "__main__":
    main()
