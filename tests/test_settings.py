"""Where the settings of ``train`` come from, and which are refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from snvrag.cli.app import run
from snvrag.config import MaskConfig, RunConfig, TrainConfig, WindowConfig, run_config
from snvrag.errors import UsageError
from snvrag.training import train

SMALL = 'window_size = 60\nmax_seq_len = 64\ndims = 16\nlayers = 1\nepochs = 1\nindex_dir = "i"\n'


@pytest.fixture
def toml(mosaic_panel, tmp_path, monkeypatch):
    """``toml(text)`` writes ./snvrag.toml for a small run into ./run."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        start = f'[train]\npanel = "{mosaic_panel}"\noutput = "run"\n'
        Path("snvrag.toml").write_text(start + SMALL + text)

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets = 3", "targets is 3, where a path is needed"),
        ("map = ['a.txt']", "genetic_map is ['a.txt'], where a path is needed"),
        ("mask_levels = 0.3", "levels is 0.3, where a list of numbers is needed"),
        ('levels = [0.3, "a"]', "levels is [0.3, 'a'], where a list of numbers is needed"),
        ("levels = [true]", "levels is [True], where a list of numbers is needed"),
        ('array_spacing = "2000"', "array_spacing is '2000', where a list of numbers"),
        ('validation_patterns = "array"', "is 'array', where a list of texts is needed"),
        ("validation_patterns = [1]", "validation_patterns is [1], where a list of texts"),
        ("lr = true", "lr is True, where a number is needed"),
        ('log_every = "5"', "log_every is '5', where a whole number is needed"),
        ("tensorboard = 1", "tensorboard is 1, where true or false is needed"),
        ("max_memory = 4", "max_memory is 4, where a text is needed"),
        ("threads = 0", "--threads 0: must be at least 1"),
        ('max_memory = "lots"', "--max-memory lots"),
        ('device = "tpu"', "--device tpu"),
        ("resume = true", "unknown setting 'resume'"),
    ],
)
def test_wrong_values_in_toml_are_one_sentence(toml, capsys, text, message):
    toml(text + "\n")
    assert run(["train", "-q"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 2
    assert not Path("run").exists()


def test_all_options_of_the_run_can_stand_in_toml(toml, capsys, monkeypatch):
    """The names of --help, also where the library's differ; options still win."""
    Path("map.txt").write_text("chr position rate cM\n20 1 1.0 0.0\n20 9000 1.0 5.0\n")
    got = {}

    def record(**values):
        got.update(values)
        raise UsageError("recorded")

    monkeypatch.setattr("snvrag.training.train", record)
    toml(
        'map = "map.txt"\nlog_every = 7\ntensorboard = true\ncompile = true\n'
        'max_memory = "64M"\ndevice = "cpu"\nthreads = 1\ngamma = 1.5\nmask_raise_every = 3\n'
    )
    assert run(["train", "--log-every", "9"]) == 2
    assert "recorded" in capsys.readouterr().err
    assert got["genetic_map"] == Path("map.txt")
    assert (got["log_every"], got["max_memory"], got["threads"]) == (9, 64 * 2**20, 1)
    assert (got["tensorboard"], got["compile_blocks"], got["device"]) == (True, True, "cpu")
    assert (got["config"].train.focal_gamma, got["config"].mask.raise_every) == (1.5, 3)
    assert run(["train", "--threads", "2", "--device", "auto", "--max-memory", "1G"]) == 2
    assert (got["threads"], got["device"], got["max_memory"]) == (2, "auto", 2**30)


SLOW_TO_SPEAK = """
import os, time
from snvrag.cli.entry import main
if os.environ["RANK"] == "0":
    time.sleep(3)
main()
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "snvrag.toml: targets is 3, where a path is needed"),
        (["--epoch", "x"], "No such option: --epoch"),
    ],
)
def test_what_all_processes_find_wrong_is_told_once(toml, options, message):
    """Also where the others are ready long before the one that speaks."""
    toml("targets = 3\n")
    Path("main.py").write_text(SLOW_TO_SPEAK)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "main.py", "train", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    told = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(told) == 1
    assert told[0].startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "light", "--dropout", "0.1"], "--dropout"),
        (["--preset", "light", "--heads", "1"], "--heads"),
        (["--preset", "light", "--k", "4"], "--k"),
        (["--sites-share", "0.5"], "--sites-share 0.5: no sites are listed"),
        (["--refresh-index", "epoch"], "--refresh-index epoch"),
        (
            ["--validation", "v.h5", "--validation-fraction", "0.1"],
            "--validation-fraction 0.1: --validation names who is validated on",
        ),
        (
            ["--preset", "tiny", "--index-kind", "embedding", "--flank-windows", "2"],
            "--flank-windows: an embedding index looks at the window alone",
        ),
        (
            ["--array-share", "0", "--array-spacing", "2000"],
            "--array-spacing: no batch is masked like an array",
        ),
        (
            ["--array-share", "0.75", "--random-share", "0.25", "--mask-levels", "0.3,0.5"],
            "--mask-levels: no batch is masked by allele frequency",
        ),
        (
            ["--mask-levels", "0.5", "--mask-raise-every", "3"],
            "--mask-raise-every: there is one level to stay at",
        ),
        (["--resume", "--force"], "--resume and --force exclude one another"),
        (["--window_size", "60", "--window-size", "60"], "--window_size: is the old name"),
    ],
)
def test_options_without_effect_are_refused(toml, capsys, options, message):
    toml("")
    assert run(["train", "-q", "--device", "cpu", *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_what_has_an_effect_is_not_refused():
    for settings in (
        {"array_share": 0.0, "mask_levels": (0.3, 0.5), "mask_raise_every": 1},
        {"array_share": 0.75, "random_share": 0.25, "array_spacing": (2000.0,)},
        {"mask_levels": (0.5,)},
        {"random_share": 0.0, "flank_windows": 2},
    ):
        assert run_config(settings) != run_config({})


def test_the_library_refuses_them_too(mosaic_panel, tmp_path):
    for name, value in (("dropout", 0.1), ("heads", 2), ("k", 1), ("af_frequencies", 8)):
        with pytest.raises(UsageError, match="preset light has no use"):
            run_config({"preset": "light", name: value})
        assert getattr(run_config({"preset": "tiny", name: value}).model, name) == value
    with pytest.raises(UsageError, match="--refresh-index epoch"):
        run_config({"refresh_index": "epoch"})
    with pytest.raises(UsageError, match="--refresh-index never"):
        RunConfig(train=TrainConfig(refresh_index="never"))
    settings = {"preset": "tiny", "index_kind": "embedding", "refresh_index": "never"}
    assert run_config(settings).train.refresh_index == "never"
    config = dataclasses.replace(
        run_config({"preset": "light"}),
        windows=WindowConfig(60, 64),
        mask=MaskConfig(sites_share=1),
    )
    with pytest.raises(UsageError, match="no sites are listed"):
        train(mosaic_panel, tmp_path / "run", config=config)
    config = run_config({"window_size": 60, "max_seq_len": 64, "validation_fraction": 0.2})
    with pytest.raises(UsageError, match="names who is validated on"):
        train(mosaic_panel, tmp_path / "run", config=config, validation=mosaic_panel)
    with pytest.raises(UsageError, match="exclude one another"):
        train(mosaic_panel, tmp_path / "run", resume=True, force=True)
    assert not (tmp_path / "run").exists()
