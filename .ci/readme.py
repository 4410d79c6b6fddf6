"""Run the commands of README.md as they stand there.

    python .ci/readme.py FOLDER [--real]

Every block marked ``sh`` is one bash script, run in ``FOLDER``, in the order of the page. Left out
are blocks below ``<!-- not run in CI: reason -->`` and those that only build this checkout.
``chr20.vcf.gz`` and ``chr20.map``, which the page downloads, are made from the bundled example, or
with ``--real`` from ``../shared/data``.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from snvrag.example import example_files

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?:<!-- not run in CI: (?P<why>[^>]*) -->\n)?^```sh\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
ELSEWHERE = re.compile(r"^(make \w+|pip install .*)$")


def lay_out(folder: Path, real: bool) -> None:
    """Put ``chr20.vcf.gz`` and ``chr20.map`` where the page would have downloaded them to."""
    if real:
        data = ROOT.parent / "shared" / "data" / "chr20" / "dev"
        panel, truth = data / "panel.vcf.gz", data / "truth.vcf.gz"
        (genetic_map,) = data.parent.glob("*.plink.map")
    else:
        example = example_files()
        panel, truth, genetic_map = example.panel_vcf, example.truth_vcf, example.genetic_map
    copies = [folder / "a.vcf.gz", folder / "b.vcf.gz"]
    for source, copy in zip((panel, truth), copies, strict=True):
        shutil.copy(source, copy)
        subprocess.run(["bcftools", "index", "-f", copy], check=True)
    merge = ["bcftools", "merge", *copies, "-Oz", "-o", folder / "chr20.vcf.gz"]
    subprocess.run(merge, check=True)
    shutil.copy(genetic_map, folder / "chr20.map")


def main() -> int:
    """Return the number of blocks that failed; the first failure ends the run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--real", action="store_true", help="with ../shared/data")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    lay_out(given.folder, given.real)
    ran = 0
    for block in BLOCK.finditer((ROOT / "README.md").read_text()):
        code = block["code"]
        if block["why"] or all(ELSEWHERE.match(line) for line in code.splitlines()):
            print(f"--- left out ({block['why'] or 'builds this checkout'})\n{code}", flush=True)
            continue
        print(f"--- {code}", flush=True)
        began = time.monotonic()
        command = ["bash", "-euo", "pipefail", "-c", code]
        if subprocess.run(command, cwd=given.folder, check=False).returncode:
            print("README.md: this block failed", file=sys.stderr)
            return 1
        print(f"--- {time.monotonic() - began:.1f} s\n", flush=True)
        ran += 1
    print(f"{ran} blocks of README.md ran as they stand there")
    return 0 if ran else 1


if __name__ == "__main__":
    sys.exit(main())
