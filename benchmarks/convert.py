"""Time ``snvrag.convert`` against ``allel.vcf_to_hdf5`` on one file, in one run.

python benchmarks/convert.py [VCF] [--repeat N]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[2] / "shared/data/chr20/dev/panel.vcf.gz"
# Each tool runs in a process of its own, so that peak memory is its own.
CHILD = """
import json, resource, sys, time
from pathlib import Path
tool, source, output, repeat = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
if tool == "snvrag":
    from snvrag.conversion import convert
    work = lambda: convert(Path(source), Path(output), force=True)
else:
    import allel
    work = lambda: allel.vcf_to_hdf5(source, output, overwrite=True)
wall, cpu = [], []
for _ in range(repeat):
    began, spent = time.perf_counter(), time.process_time()
    work()
    wall.append(time.perf_counter() - began)
    cpu.append(time.process_time() - spent)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([min(wall), min(cpu), peak, Path(output).stat().st_size]))
"""


def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vcf", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if not arguments.vcf.exists():
        print(f"skipped: {arguments.vcf} is not there")
        return
    print(
        f"convert {arguments.vcf} ({arguments.vcf.stat().st_size:,} bytes), "
        f"best of {arguments.repeat}"
    )
    print(f"{'tool':22} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'bytes':>12}")
    for tool, name in (("snvrag", "snvrag convert"), ("allel", "allel.vcf_to_hdf5")):
        with tempfile.TemporaryDirectory() as folder:
            words = [tool, str(arguments.vcf), f"{folder}/out.h5", str(arguments.repeat)]
            done = subprocess.run(
                [sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=False
            )
        if done.returncode:
            print(f"{name:22} skipped: {done.stderr.strip().splitlines()[-1]}")
            continue
        wall, cpu, peak, size = json.loads(done.stdout)
        print(f"{name:22} {wall:8.3f} {cpu:8.3f} {peak:8.0f} {size:12,}")


if __name__ == "__main__":
    main()
