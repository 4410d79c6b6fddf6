"""The report: one page, complete in itself, of whatever a run and evaluations hold."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import write_vcf

from snvrag import __version__, report
from snvrag.cli.app import run as run_command
from snvrag.config import MaskConfig, ModelConfig, RunConfig, TrainConfig, WindowConfig
from snvrag.conversion import convert
from snvrag.errors import InputError, OutputError, UsageError
from snvrag.evaluation import evaluate
from snvrag.evaluation_file import read_evaluations, write_evaluations
from snvrag.panel import Panel
from snvrag.run_events import EventLog
from snvrag.run_history import read_events, windows_touched
from snvrag.training import train
from snvrag.windows import WindowPlan

LIGHT = RunConfig(
    WindowConfig(60, 64),
    MaskConfig(rare_threshold=0.25),
    ModelConfig(network="light", dims=16, heads=1, layers=1, k=1, dropout=0.0),
    TrainConfig(batch_size=18, epochs=2, epoch_batches=4, warmup_steps=3, lr=3e-3),
)
ATTACK = '<script>alert("x")</script>'
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "strong"),
    *("nav", "ul", "li", "a", "main", "section", "div", "dl", "dt", "dd", "small", "figure"),
    *("figcaption", "svg", "g", "path", "text", "circle", "rect", "details", "summary", "table"),
    *("caption", "thead", "tbody", "tr", "th", "td", "code", "footer"),
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.inside = [], [], [], None
        self.feed(text)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.inside = tag

    def handle_data(self, data):
        if self.inside != "style":
            self.words.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def trained(mosaic_panel, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("trained")
    done = train(mosaic_panel, folder / "run", config=LIGHT, index_dir=folder / "index")
    return folder / "run", done


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A panel, a truth and an imputed file of two samples, one of them named to attack a page."""
    folder = tmp_path_factory.mktemp("small")
    alleles = [[int(site % (2 + h) == 0) for site in range(12)] for h in range(4)]
    write_vcf(folder / "panel.vcf", np.array(alleles, dtype=np.uint8))
    convert(folder / "panel.vcf", folder / "panel.h5")
    head, *rows = (folder / "panel.vcf").read_text().split("#CHROM")
    head += "".join(
        f'##INFO=<ID={name},Number=1,Type=Float,Description="q">\n' for name in ("DR2", "CR2")
    )
    head += '##INFO=<ID=IMP,Number=0,Type=Flag,Description="imputed">\n'
    head += '##FORMAT=<ID=DS,Number=1,Type=Float,Description="dosage">\n'
    head += '##FORMAT=<ID=GP,Number=G,Type=Float,Description="probabilities">\n'
    body = ("#CHROM" + rows[0]).replace("S1", ATTACK)
    (folder / "truth.vcf").write_text(head + body)
    lines = body.splitlines()
    for i, line in enumerate(lines[1:], start=1):
        fields = line.split("\t")
        fields[7] = f"DR2=0.{i % 9 + 1};CR2=0.{i % 7 + 2};IMP"
        fields[8] = "GT:DS:GP"
        fields[9] += ":0.9:0.2,0.7,0.1"
        fields[10] += f":{1.5 if i % 2 else 0.2}:0.1,0.5,0.4"
        lines[i] = "\t".join(fields)
    (folder / "imputed.vcf").write_text(head + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def evaluation(small):
    """An evaluation file of one good and one hostile label."""
    files = small / "imputed.vcf", small / "truth.vcf", small / "panel.h5"
    found = [evaluate(*files, label=label) for label in ("plain", f"bad {ATTACK}")]
    write_evaluations(found, small / "evaluation.json")
    return small / "evaluation.json"


@pytest.fixture(scope="module")
def page(trained, evaluation, tmp_path_factory):
    """The report of both."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    summary = report([trained[0], evaluation], path)
    return path, summary


def test_the_page_tells_what_was_done(page, trained, evaluation):
    path, summary = page
    found = Page(path.read_text())
    _, done = trained
    saved = read_evaluations(evaluation).evaluations
    for figure in (
        *(f"{done.best[name]:.4f}" for name in ("val_r2", "copying_r2", "val_rare_f1")),
        f"Epoch {done.best_epoch} of {done.epochs} is the best by its loss at rare sites",
        "250 sites of chromosome 20 in 5 windows",
        "36 samples",
        "4 held-out samples",
        *(f"{e.all.aggregate_r2:.4f}" for e in saved),
        *("nearest haplotype", "allele frequency", "5 built just in time"),
        *("DR2 of plain", "CR2 of plain", "Probability of heterozygous", "train.batch_size"),
        f"snvrag {__version__}",
    ):
        assert figure in found.text, figure
    # Four curves, the windows, five of accuracy, four of calibration, two scores of two files.
    assert found.tags.count("figure") == summary.figures == 4 + 1 + 5 + 4 + 4
    assert (summary.runs, summary.evaluations) == (1, 2)
    assert summary.bytes == path.stat().st_size


def test_the_page_loads_nothing_and_runs_nothing(page):
    text = page[0].read_text()
    found = Page(text)
    assert set(found.tags) <= TAGS
    assert not re.search(r"https?:|//[a-z]|@import|url\(|javascript:", text, re.IGNORECASE)
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in {"src", "srcset", "data", "action", "background"}, (tag, name)
        if name == "href":
            assert value.startswith("#"), (tag, value)


def test_names_of_files_and_samples_are_only_text(page):
    text = page[0].read_text()
    assert "<script" not in text
    assert ATTACK in Page(text).text


def test_every_plot_has_a_name_and_a_table_of_its_numbers(page):
    text = page[0].read_text()
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    for figure in figures:
        assert re.search(r'<svg class="plot"[^>]* role="img" aria-label="[^"]+"', figure)
        table = re.search(r"<details><summary>Numbers</summary>.*<tbody>(.*)</tbody>", figure, re.S)
        assert table
        assert "<td>" in table[1]
        assert "nan" not in figure
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_equal_inputs_give_equal_bytes(page, trained, evaluation, tmp_path):
    report([trained[0], evaluation], tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page[0].read_bytes()


def test_runs_and_evaluations_alone(trained, evaluation, tmp_path):
    alone = report([trained[0]], tmp_path / "run.html")
    assert (alone.runs, alone.evaluations, alone.figures) == (1, 0, 5)
    alone = report([evaluation], tmp_path / "evaluation.html")
    assert (alone.runs, alone.evaluations, alone.figures) == (0, 2, 13)
    two = tmp_path / "other"
    shutil.copytree(trained[0], two)
    both = report([trained[0], two], tmp_path / "two.html")
    assert (both.runs, both.figures) == (2, 10)
    assert "Training: other" in Page((tmp_path / "two.html").read_text()).text


def test_a_run_without_events_or_epochs_says_so(trained, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(trained[0] / name, old)
    assert report([old], tmp_path / "old.html").figures == 4
    assert "Not recorded" in (tmp_path / "old.html").read_text()
    (old / "metrics.jsonl").unlink()
    assert report([old], tmp_path / "none.html").figures == 0
    assert "No epoch is complete yet" in (tmp_path / "none.html").read_text()


def test_a_hostile_run_folder_is_only_text(trained, tmp_path):
    """Right JSON of wrong or hostile content must neither reach the page as HTML nor raise."""
    bad = tmp_path / "bad"
    shutil.copytree(trained[0], bad)
    config = json.loads((bad / "config.json").read_text())
    config["chromosomes"] = [[ATTACK, 1], 7, []]
    config["config"]["model"]["network"] = ATTACK
    config["config"]["train"] = {"epochs": "many", ATTACK: [ATTACK, None, {"a": 1}]}
    config["num_windows"], config["provenance"] = 1e400, {"command": 5, "inputs": [1]}
    (bad / "config.json").write_text(json.dumps(config))
    window = {"event": "window", "first": 5, "last": 9, "sites": 3, "built": True, "ms": 0}
    events = [
        *({**window, "window": 1, "chromosome": ATTACK}, {**window, "window": 2}),
        *({**window, "window": -1, "chromosome": "1"}, {**window, "window": 3, "ms": "1"}),
        {"event": "start", "panel": {ATTACK: 1}, "panel_samples": ATTACK},
    ]
    (bad / "events.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n{torn")
    report([bad], tmp_path / "bad.html")
    text = (tmp_path / "bad.html").read_text()
    assert set(Page(text).tags) <= TAGS
    assert "1 of 0 windows" in text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(format_version=2), "version 2"),
        (lambda d: d.update(format_name="other"), "'other'"),
        (lambda d: d["evaluations"][0].pop("bins"), r"evaluations\[0\].bins is missing"),
        (lambda d: d["evaluations"][0].update(label=5), r"evaluations\[0\].label is no text"),
        (lambda d: d["evaluations"][1]["all"].update(n_sites=-1), "all.n_sites is no count"),
        (
            lambda d: d["evaluations"][1]["all"].update(aggregate_r2="1"),
            "aggregate_r2 is no number",
        ),
        (lambda d: d["evaluations"][1]["all"].update(aggregate_r2=1e300), "is no number"),
        (lambda d: d["evaluations"][0].update(n_samples=True), "n_samples is no count"),
        (lambda d: d["evaluations"][0].update(bins=[[]]), r"bins\[0\] is no object"),
        (lambda d: d["evaluations"][0].update(bins=[{}] * 1001), "at most 1,000"),
        (lambda d: d["evaluations"][0]["qualities"].update(DR2=None), "qualities.DR2 is no object"),
        (lambda d: d["evaluations"][1].update(bins=[]), r"evaluations\[1\].bins are not"),
        (lambda d: d.pop("provenance"), "snvrag_version is missing"),
        (lambda d: d.update(evaluations={}), "evaluations is no list"),
    ],
)
def test_a_damaged_evaluation_is_named_and_nothing_is_written(evaluation, tmp_path, change, named):
    data = json.loads(evaluation.read_text())
    change(data)
    (tmp_path / "e.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=named) as caught:
        report([tmp_path / "e.json"], tmp_path / "r.html")
    assert caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["e.json"]


@pytest.mark.parametrize(
    ("gamma", "figures", "best"),
    [
        (0.0, {"rare_recall": [0.5] * 3, "rare_loss": [0.3, 0.1, 0.1], "loss": [0.1, 0.2, 0.3]}, 2),
        (0.0, {"rare_recall": [None] * 3, "rare_loss": [None] * 3, "loss": [0.3, 0.2, 0.1]}, 3),
        (2.0, {"rare_recall": [0.0, 0.5, 0.4], "rare_f1": [None, 0.6, 0.5]}, 2),
        (2.0, {"rare_recall": [None] * 3, "rare_f1": [None] * 3, "f1": [0.1, 0.2, 0.1]}, 2),
    ],
)
def test_the_best_epoch_is_the_one_that_training_keeps(trained, tmp_path, gamma, figures, best):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["config"]["train"]["focal_gamma"] = gamma
    (folder / "config.json").write_text(json.dumps(config))
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    rows = [
        row | {"epoch": i + 1, **{f"val_{name}": values[i] for name, values in figures.items()}}
        for i in range(3)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report([folder], tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    judge = "F1" if gamma else "loss"
    group = "rare" if figures["rare_recall"][1] is not None else "all"
    assert f"Epoch {best} of 3 is the best by its {judge} at {group} sites" in text


def test_a_figure_undefined_in_the_last_epoch_leaves_the_line(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["val_rare_f1"] = None
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report([folder], tmp_path / "r.html")
    tip = f"epoch 1, model: {rows[0]['val_rare_f1']:.4f}"
    drawn = (tmp_path / "r.html").read_text().partition(">F1 at rare sites<")[2]
    assert tip in drawn.partition("</figure>")[0]


def test_evaluations_at_other_sites_are_not_ranked(evaluation, tmp_path):
    data = json.loads(evaluation.read_text())
    report([evaluation], tmp_path / "same.html")
    assert "the highest r² is that of" in (tmp_path / "same.html").read_text()
    fewer = data["evaluations"][1]["bins"][-1]
    n = data["evaluations"][0]["bins"][-1]["n_sites"]
    fewer["n_sites"] = n + 1
    (tmp_path / "e.json").write_text(json.dumps(data))
    report([tmp_path / "e.json"], tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "not compared at the same sites" in text
    assert "the highest r² is that of" not in text
    assert f"{n} / {n + 1}" in text


def test_empty_and_strange_evaluations_still_give_a_page(evaluation, tmp_path):
    """What passes the checks is drawn: no samples, figures that are undefined or huge."""
    data = json.loads(evaluation.read_text())
    first, second = data["evaluations"]
    first |= {"samples": [], "regions": [], "calibration": [], "gp_calibration": None, "ece": None}
    first |= {"quality": None, "qualities": {}}
    second["bins"][0]["aggregate_r2"] = -1e14
    second["label"] = "\ud800"
    second["regions"] = [second["regions"][0] | {"chromosome": name} for name in ("1", "2")]
    for changed in ([first], [second, first], [first, second], []):
        (tmp_path / "e.json").write_text(json.dumps(data | {"evaluations": changed}))
        report([tmp_path / "e.json"], tmp_path / "r.html", force=True)
        assert set(Page((tmp_path / "r.html").read_text()).tags) <= TAGS


def test_an_evaluation_reads_back_as_it_was(small, evaluation):
    files = small / "imputed.vcf", small / "truth.vcf", small / "panel.h5"
    found = evaluate(*files, label="plain")
    saved = read_evaluations(evaluation).evaluations[0]
    assert repr(saved.bins) == repr(found.bins)
    assert repr(saved.samples) == repr(found.samples)
    assert repr(saved.qualities) == repr(found.qualities)
    assert repr(saved.regions) == repr(found.regions)
    assert set(saved.qualities) == {"DR2", "CR2"}
    # CR2 goes before DR2 where a file has both.
    assert repr(saved.quality) == repr(found.qualities["CR2"])


def test_the_commands(small, trained, tmp_path, capsys):
    files = [str(small / name) for name in ("imputed.vcf", "truth.vcf")]
    kept, output = tmp_path / "e.json", tmp_path / "r.html"
    words = ["evaluate", *files, "-r", str(small / "panel.h5"), "-o", str(kept)]
    assert run_command(words) == 0
    assert run_command([*words]) == 2
    assert "--force" in capsys.readouterr().err
    assert run_command([*words, "--force", "--plot", str(kept)]) == 2
    assert run_command([*words, "--force", "--label", "[/b] [bold]x[/bold]"]) == 0
    told = capsys.readouterr().out
    assert "[/b] [bold]x[/bold]: 2 samples" in told
    assert run_command([*words[:-2], "--label", "a b"]) == 0
    assert "--label 'a b' -o evaluation.json" in capsys.readouterr().out
    command = ["report", str(trained[0]), str(kept), "-o", str(output)]
    assert run_command(command) == 0
    assert "figures" in capsys.readouterr().out
    assert run_command(command) == 2
    capsys.readouterr()
    assert run_command([*command, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"] == 1
    for wrong in ([files[0]], [str(tmp_path)], [str(tmp_path / "none")], []):
        assert run_command(["report", *wrong, "-o", str(tmp_path / "x.html")]) == 2
        assert "hint: " in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()
    with pytest.raises(UsageError, match="one of the inputs"):
        report([kept], kept, force=True)
    own = trained[0] / "metrics.jsonl"
    before = own.read_bytes()
    with pytest.raises(UsageError, match="one of the inputs"):
        report([trained[0]], own, force=True)
    assert own.read_bytes() == before
    with pytest.raises(OutputError, match="exists already"):
        report([kept], output)
    with pytest.raises(UsageError, match="needs"):
        report([], output)


def test_windows_are_recorded_as_built_or_read(trained, mosaic_panel, tmp_path):
    run, done = trained
    events = read_events(run / "events.jsonl")
    touched = windows_touched(events)
    assert [event.window for event in touched] == list(range(5))
    assert all(event.built and event.ms > 0 for event in touched)
    assert [event.sites for event in touched] == [60, 60, 60, 60, 10]
    assert (touched[0].first, touched[0].last, touched[1].first) == (100, 690, 700)
    assert done.jit_builds == 5
    kinds = [event["event"] for event in events if event["event"] != "window"]
    assert kinds == ["start", "end"]
    # Another run finds the indexes built, and its own windows are added to a torn line.
    again = tmp_path / "again"
    again.mkdir()
    index = run.parent / "index"
    train(mosaic_panel, again, config=LIGHT, index_dir=index)
    assert not any(event.built for event in windows_touched(read_events(again / "events.jsonl")))
    with (again / "events.jsonl").open("a") as file:
        file.write('{"event": "win')
    train(mosaic_panel, again, config=LIGHT, index_dir=index, resume=True)
    resumed = read_events(again / "events.jsonl")
    assert resumed[-1]["already_finished"] is True
    # What is known of a window is not told again, but that it had to be built is.
    with Panel.open(mosaic_panel) as panel:
        plan = WindowPlan.from_chromosomes(panel.chromosomes(), LIGHT.windows)
        log = EventLog(again / "events.jsonl", panel, plan, None)
    with log:
        log.on_touch(3, built=False, seconds=0.1)
        log.on_touch(4, built=True, seconds=0.1)
    added = read_events(again / "events.jsonl")[len(resumed) :]
    assert [(event["window"], event["built"]) for event in added] == [(4, True)]
    train(mosaic_panel, again, config=LIGHT, index_dir=index, force=True)
    assert [e["event"] for e in read_events(again / "events.jsonl")].count("start") == 1


@pytest.mark.external
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_it_without_complaint(page, tmp_path):
    def browse(path: Path) -> tuple[str, str]:
        words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        words += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        words += ["--disable-component-update", "--enable-logging=stderr", "--dump-dom"]
        words += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, "\n".join(complaints)

    shown, complaints = browse(page[0])
    assert complaints == ""
    found = Page(shown)
    assert found.tags.count("figure") == page[1].figures
    assert found.tags.count("script") == 0
    assert "Imputation report" in found.text
    assert "Quality scores against truth" in found.text
    # The page's own policy stops what would slip through, and the console tells.
    broken = tmp_path / "broken.html"
    broken.write_text(
        page[0].read_text().replace("<main>", "<main><script>document.title='x'</script>")
    )
    shown, complaints = browse(broken)
    assert "Content Security Policy" in complaints
    assert "<title>x</title>" not in shown
