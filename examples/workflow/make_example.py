"""Write the bundled example as two small chromosomes, with a configuration, to try the workflow.

python make_example.py FOLDER
"""

import gzip
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "snvrag" / "example_data"
NAMES = ("chrA", "chrB")


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, compressed or not."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()


def main() -> None:
    """Cut panel, target, truth and map in two at the panel's middle site."""
    folder = Path(sys.argv[1])
    (folder / "data").mkdir(parents=True, exist_ok=True)
    panel = [line for line in read_lines(DATA / "panel.vcf.gz") if not line.startswith("#")]
    middle = int(panel[len(panel) // 2].split("\t")[1])
    for number, name in enumerate(NAMES):
        for what in ("panel", "target", "truth"):
            lines = []
            for line in read_lines(DATA / f"{what}.vcf.gz"):
                if line.startswith("##contig"):
                    lines.append(f"##contig=<ID={name}>")
                elif line.startswith("#"):
                    lines.append(line)
                else:
                    _, position, rest = line.split("\t", 2)
                    if (int(position) >= middle) == bool(number):
                        lines.append(f"{name}\t{position}\t{rest}")
            path = folder / "data" / f"{name}.{what}.vcf"
            path.write_text("\n".join(lines) + "\n")
        rows = [line.split() for line in read_lines(DATA / "genetic_map.plink.map")]
        path = folder / "data" / f"{name}.map"
        path.write_text("".join(f"{name} {' '.join(row[1:])}\n" for row in rows))
    settings = Path(__file__).with_name("config.yaml").read_text()
    head, rest = settings.split("chromosomes:\n")
    tail = rest[rest.index("\n# Samples that one job") :]
    files = "".join(
        f"  {name}:\n"
        + f"    panel: data/{name}.panel.vcf\n    target: data/{name}.target.vcf\n"
        + f"    map: data/{name}.map\n    truth: data/{name}.truth.vcf\n"
        for name in NAMES
    )
    tail = tail.replace("batch_size: 500", "batch_size: 8")
    (folder / "config.yaml").write_text(f"{head}chromosomes:\n{files}{tail}")


if __name__ == "__main__":
    main()
