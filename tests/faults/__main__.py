"""``python tests/faults``: several hundred faults in snvrag's commands; see ``harness.py``."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cases import CASES
from harness import KINDS, Harness, plan_faults, table


def main() -> int:
    """Inject the faults, print each and a table; 1 if anything was wrong after one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=220)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--json", type=Path, help="also write all outcomes here")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    place = Path(tempfile.mkdtemp(prefix="snvrag-faults-"))
    began = time.monotonic()
    try:
        harness = Harness(place, seed=arguments.seed)
        harness.prepare(arguments.cases)
        pairs = plan_faults(harness, arguments.faults, arguments.cases, arguments.kinds)
        outcomes = [harness.fault(name, kind) for name, kind in pairs]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(table(outcomes))
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    seconds = time.monotonic() - began
    print(f"{len(outcomes)} faults, {wrong} with something wrong, {seconds:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(x) for x in outcomes], indent=1) + "\n")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
