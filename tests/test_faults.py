"""Some faults at random moments; ``make faults`` injects several hundred."""

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and tmpfs")
FOLDER = Path(__file__).with_name("faults")
NAMES = ("convert --force", "build-index", "impute")
N_FAULTS, SEED = 14, 20


def test_faults_at_random_moments_leave_whole_files_and_one_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from harness import Harness, plan_faults

    harness = Harness(tmp_path, seed=SEED, log=False)
    harness.prepare(NAMES)
    faults = list(plan_faults(harness, N_FAULTS, NAMES))
    outcomes = [harness.fault(name, kind) for name, kind in faults]
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    assert not wrong, f"seed {SEED}: {wrong}"
    assert any(outcome.code != 0 for outcome in outcomes)


def test_a_wrong_ending_is_noticed(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from harness import Fault, _wrong_ending

    def found(kind, code, err):
        return _wrong_ending(kind, Fault(kind, {}), code, err)

    assert found("interrupt", 130, "interrupted\n") == []
    assert found("interrupt", 1, "interrupted\n") == ["exit code 1"]
    assert found("interrupt", 130, "") == ["0 sentences on stderr"]
    assert found("full", 2, "error: no space left\nTraceback\n") == ["stderr has 'Traceback'"]
    assert found("full", 2, "error: a fault\n") == [
        "the sentence does not say that space is lacking"
    ]
    assert found("kill", 0, "") == ["went on"]
