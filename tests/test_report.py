"""Tables hold what can be computed by hand; the page loads nothing; damage costs one run."""

import base64
import html.parser
import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssl_gan_jax import report
from ssl_gan_jax.config import base
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import metrics
from ssl_gan_jax.evaluation.metrics import METRICS, write_predictions
from ssl_gan_jax.files import grid
from ssl_gan_jax.report import answers, figures, page, predictions, published, rows, tables
from ssl_gan_jax.report.rows import ALL, Budget
from ssl_gan_jax.training.writer import Writer

ROOT = Path(__file__).parents[1]


def row(method="ssl_gan", seed=0, score=0.8, labels=10, cell=None, **changes):
    """A result row whose metrics all are `score` (or {name: value}), with intervals of .1."""
    values = score if isinstance(score, dict) else dict.fromkeys(METRICS, score)
    spans = {
        name: {"value": v, "low": v and v - 0.1, "high": v and v + 0.1}
        for name, v in (dict.fromkeys(METRICS) | values).items()
    }
    made = {
        "method": method,
        "data": "phantom",
        "size": 32,
        "seed": seed,
        "classes": ["normal", "ill"],
        "labels_per_class": labels,
        "images": None,
        "test": {"n": 100, "patients": 90, "threshold": 0.5, **spans},
        "validation": None,
        **changes,
    }
    if cell is not None:
        made |= {"experiment": made["data"], "cell": cell}
    return made


def make_run(folder, content, config=None, probs=None, label=None):
    """A run folder as `train.run` leaves it; `content` None: not finished."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {"data": {"name": "phantom"}}))
    with Writer(folder) as writer:
        for step in (50, 100):
            writer.scalars(step, {"L": 1 / step, "L_s": 0.5, "mask_rate": 0.9}, "train")
            writer.scalars(step, {"auroc": None if step == 50 else 0.8}, "validation")
        images = np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 1))
        writer.images(100, grid(images, columns=8))
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 40) if label is None else label
    p = np.clip(rng.normal(0.3 + 0.4 * label, 0.2), 0, 1)
    probs = np.stack([1 - p, p], axis=1) if probs is None else probs
    names = [f"SECRET/{i}{'long' * 20}.png" for i in range(len(label))]
    write_predictions(folder / "predictions.csv", names, label, probs, ["normal", "ill"])
    (folder / "calibration.json").write_text(json.dumps({"temperature": 2.0}))
    if content is not None:
        (folder / "result.json").write_text(json.dumps(content))
    return folder


def write_rows(path, *contents):
    path.write_text("".join(json.dumps(content) + "\n" for content in contents))
    return path


def panel_of(*contents):
    runs = [rows.to_run(content, f"row {i}") for i, content in enumerate(contents)]
    (panel,) = rows.Found(runs, [], [], [], []).panels
    return panel


def cells(table):
    """{first cell: {column: text}} of a table whose first column names its rows."""
    return {line[0]: dict(zip(table.header, line, strict=True)) for line in table.rows}


# Statistics.


def test_t_interval_of_five_runs_is_that_of_scipy_and_of_the_hand():
    values = [0.7, 0.75, 0.8, 0.85, 0.9]
    e = tables.estimate(values)
    half = 2.776445 * math.sqrt(0.025 / 4 / 5)  # t(.975, 4), and the variance by hand
    assert (e.mean, e.low, e.high) == pytest.approx((0.8, 0.8 - half, 0.8 + half), abs=1e-6)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (e.low, e.high, e.n) == pytest.approx((low, high, 5))


def test_paired_test_is_scipys_and_uses_shared_seeds_only():
    ours, base = {0: 0.8, 1: 0.9, 2: 0.7, 7: 0.1}, {0: 0.7, 1: 0.85, 2: 0.69, 9: 0.99}
    e = tables.paired(ours, base)
    expected = stats.ttest_rel([0.8, 0.9, 0.7], [0.7, 0.85, 0.69])
    assert e.n == 3 and e.mean == pytest.approx(0.16 / 3)
    assert e.p == pytest.approx(expected.pvalue)
    assert (e.low, e.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_too_little_to_say_says_so():
    assert tables.estimate([]) is None and tables.paired({0: 1.0}, {1: 1.0}) is None
    assert tables.estimate([0.5]) == (0.5, None, None, None, 1)
    assert tables.estimate([0.3, 0.1 + 0.2, 0.3]).p is None  # equal but for rounding


def test_numbers_read_as_in_the_readme():
    assert [tables.number(x) for x in (0.8224, -0.094, 1.0, None)] == [
        ".822",
        "-.094",
        "1.000",
        "–",
    ]
    assert tables.number(0.094, sign="+") == "+.094"


# Tables.


def test_table_of_two_methods_equals_what_the_hand_computes():
    scores = {"supervised": (0.6, 0.7, 0.8), "ssl_gan": (0.7, 0.9, 0.8)}
    made = [row(m, s, x) for m, values in scores.items() for s, x in enumerate(values)]
    panel = panel_of(*made, row("ssl_gan", 0, 0.95, labels=None))
    accuracy, *_ = tables.score_tables(panel, "test", ["accuracy"])
    assert accuracy.header == ["labels", "supervised", "ssl_gan"]
    half = 4.302653 * 0.1 / math.sqrt(3)
    low, high = (f"{x:.3f}".removeprefix("0") for x in (0.8 - half, 0.8 + half))
    assert cells(accuracy)["10 a class"]["ssl_gan"] == f".800 [{low}, {high}], n=3"
    assert cells(accuracy)["all"] == {
        "labels": "all",
        "supervised": "–",
        "ssl_gan": ".950 [.850, 1.050]*, n=1",
    }
    assert list(cells(accuracy)) == ["10 a class", "all"]  # all labels are the most
    assert "over patients" in accuracy.notes[0]
    (line,) = tables.difference_table(panel, "test").rows
    assert line[:2] == ["10 a class", "ssl_gan"]
    p = stats.ttest_rel(scores["ssl_gan"], scores["supervised"]).pvalue
    assert line[4].startswith("+.100 [-.148, .348], p = ") and f"{p:.3f}"[1:] in line[4]


def test_each_column_is_compared_with_the_baseline_of_its_own_settings():
    def cell(method, **changes):
        return {"method": method, "labels": 10, "size": 32} | changes

    panel = panel_of(
        row("supervised", score=0.5, cell=cell("supervised")),
        row("supervised", score=0.6, cell=cell("supervised", **{"method.width": 8})),
        row("ssl_gan", score=0.8, cell=cell("ssl_gan")),
        row("ssl_gan", score=0.8, cell=cell("ssl_gan", **{"method.width": 8})),
    )
    table = tables.difference_table(panel, "test")
    assert table.header[:3] == ["labels", "method", "baseline"]
    assert [line[1:4] for line in table.rows] == [
        ["supervised, width 8", "supervised", "+.100, n=1"],
        ["ssl_gan", "supervised", "+.300, n=1"],
        ["ssl_gan, width 8", "supervised, width 8", "+.200, n=1"],
    ]


def test_every_column_can_be_compared_with_one_that_the_user_names(tmp_path):
    made = [row(m, score=s) for m, s in (("supervised", 0.5), ("ec_gan", 0.6), ("ssl_gan", 0.8))]
    table = tables.difference_table(panel_of(*made), "test", "ec_gan")
    assert table.title.startswith("Difference to ec_gan")
    assert [line[1:3] for line in table.rows] == [
        ["supervised", "-.100, n=1"],
        ["ssl_gan", "+.200, n=1"],
    ]
    (answer,) = answers.answers(panel_of(*made), "ec_gan")
    assert "+.200 against ec_gan" in answer.sentence
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, made)))
    with pytest.raises(UserError, match="--baseline: no 'ecgan'.*did you mean 'ec_gan'"):
        report.write([tmp_path / "rows.jsonl"], tmp_path, baseline="ecgan")


def test_scores_at_a_half_have_tables_where_rows_have_them():
    assert not tables.score_tables(panel_of(row()), "test", tables.MORE[4:])
    made = row()
    made["test"]["accuracy_at_half"] = {"value": 0.7, "low": 0.6, "high": 0.8}
    first, *_ = tables.score_tables(panel_of(made, row("supervised")), "test", tables.MORE)[::-1]
    assert cells(first)["10 a class"]["ssl_gan"] == ".700 [.600, .800]*, n=1"


def test_an_undefined_metric_is_a_dash_and_leaves_the_others():
    panel = panel_of(row(seed=0, score={"accuracy": 0.5}), row("supervised", score={}))
    assert not tables.score_tables(panel, "test", ["auroc"])
    (table,) = tables.score_tables(panel, "test", ["accuracy"])
    assert cells(table)["10 a class"]["supervised"] == "–"
    assert tables.difference_table(panel, "test").rows[0][2:] == ["–", "–", "–"]


def test_overrides_name_columns_and_what_all_share_does_not():
    def cell(**changes):
        return {"method": "three_n_gan", "images": 200, "size": 32, "steps": 5} | changes

    panel = panel_of(
        row("three_n_gan", cell=cell()),
        row("three_n_gan", cell=cell(**{"method.lambda_": 0})),
        row("supervised", cell=cell(method="supervised")),
    )
    assert list(panel.columns) == ["supervised", "three_n_gan", "three_n_gan, lambda_ 0"]
    assert panel.common == ("steps 5",)


def test_directions_and_sizes_are_tables_of_their_own_and_scenarios_columns():
    def transfer(scenario, source, target):
        cell = {"scenario": scenario, "source": source, "target": target, "seed": 0}
        content = row("supervised" if scenario == "cnn" else "ssl_gan", labels=None, cell=cell)
        return rows.to_run(content | {"data": "nlm_tb", "experiment": "domain"}, "")

    runs = [transfer("cnn", "a", "b"), transfer("gan_adapted", "a", "b"), transfer("cnn", "b", "a")]
    first, second = rows.Found(runs, [], [], [], []).panels
    assert first.subset == "a to b" and list(first.columns) == ["cnn", "gan_adapted"]
    assert second.subset == "b to a"
    (table,) = tables.score_tables(first, "test", ["accuracy"])
    assert cells(table)["all"]["Madani et al. 2018, Table 2: GAN, adapted"] == ".937"
    assert "Madani et al. 2018, Table 2 is on plco to openi" in table.notes[-1]
    assert tables.difference_table(first, "test").title.startswith("Difference to cnn")


def test_runs_for_tuning_are_labelled_as_validation():
    judged = row(cell={"method": "ssl_gan", "train.test_at_end": False})
    judged |= {"validation": judged["test"], "test": None}
    found = rows.Found([rows.to_run(judged, "")], [], [], [], [])
    text = report.page.markdown(found, report.page.sections(found))
    assert "**Accuracy, validation images**" in text and "test" not in text


def test_every_finding_has_a_row_and_a_paired_difference():
    def findings(method, seed, *values):
        scores = [{"auroc": {"value": v, "low": None, "high": None}} for v in values]
        made = row(method, seed, sum(values) / 2, target="findings", classes=["mass", "edema"])
        return made | {"test": made["test"] | {"findings": scores}}

    panel = panel_of(
        *(findings("supervised", seed, 0.6, 0.7 + seed / 10) for seed in range(2)),
        *(findings("ssl_gan", seed, 0.5, 0.8 + seed / 10) for seed in range(2)),
    )
    table = tables.finding_table(panel, "test")
    assert table.header[1:] == ["finding", "supervised", "ssl_gan", "ssl_gan - supervised"]
    mass, edema = table.rows
    assert mass[1] == "mass" and mass[3].startswith(".500") and mass[4].startswith("-.100")
    assert edema[1] == "edema" and edema[2].startswith(".750") and edema[4].startswith("+.100")
    assert tables.finding_table(panel_of(row(seed=0)), "test") is None


def test_generated_images_have_a_table():
    drawn = {"nearest_train": 2.0, "nearest_train_of_validation": 3, "copies": 0.01}
    panel = panel_of(*(row(seed=s, samples=drawn) for s in (0, 1)))
    (line,) = tables.sample_table(panel).rows
    assert line[2] == "2 [2, 2], n=2" and line[-1] == "–"
    assert tables.sample_table(panel_of(row())) is None


@pytest.mark.parametrize(
    ("experiment", "name", "budget", "value"),
    [
        ("plco", "CNN", Budget(False, "a class", 25), 0.5127),
        ("plco", "GAN", Budget(False, "a class", 2000), 0.8510),
        ("chex", "3N-GAN", Budget(False, "in all", 750), 0.9416),
        ("chex", "vanilla", Budget(False, "in all", 200), 0.8504),
        ("domain", "GAN", ALL, 0.764),
        ("mnist", "feature matching", Budget(False, "in all", 100), 1 - 0.0093),
        ("pneumonia_mnist", "SEC-GAN", Budget(False, "a class", 10), 0.838),
        ("pneumonia_mnist", "SPARSE, ensemble", Budget(False, "a class", 50), 0.860),
        ("pneumonia_mnist", "MatchGAN", Budget(False, "a class", 5), 0.710),
        ("pneumonia_mnist", "AutoML Vision", ALL, 0.946),
    ],
)
def test_published_numbers(experiment, name, budget, value):
    panel = rows.Panel(experiment, "", 0, "", [rows.ReportRow({}, "", None, budget, "", ())])
    columns = [
        *published.paper_columns(panel, "accuracy"),
        *published.paper_columns(panel, "auroc"),
    ]
    assert next(p for p in columns if p.title.endswith(name)).values[budget] == value


def test_what_sets_published_numbers_apart_is_said():
    runs = [rows.ReportRow({}, "", None, Budget(False, "a class", 50), "", ())]
    panel = rows.Panel("pneumonia_mnist", "pneumonia_mnist", 128, "", runs)
    cautions = {
        p.title.partition(":")[0]: p.caution for p in published.paper_columns(panel, "accuracy")
    }
    assert "EfficientNet-B3 pretrained on ImageNet" in cautions["SPARSE 2025"]
    assert "these runs" not in cautions["SPARSE 2025"]  # of the same size
    (at_28, *_) = published.paper_columns(panel._replace(size=28), "accuracy")
    assert "pneumonia_mnist at 128x128; these runs" in at_28.caution and "ImageNet" in at_28.caution


def answers_of(**scores):
    """The answers to {method: scores of seeds 0, 1, ...}, of one budget."""
    made = [row(method, s, x) for method, xs in scores.items() for s, x in enumerate(xs)]
    return list(answers.answers(panel_of(*made)))


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=6))
def test_a_difference_is_claimed_only_of_several_seeds_whose_interval_excludes_0(pairs):
    (answer,) = answers_of(supervised=[a for a, _ in pairs], ssl_gan=[b for _, b in pairs])
    e = tables.estimate([b - a for a, b in pairs])
    excludes_0 = e.n > 1 and (e.low > 0 or e.high < 0)
    assert answer.shown == excludes_0 and f"n={len(pairs)}" in answer.sentence
    doubt = "No difference" if e.n > 1 else "too few for a claim"
    assert (doubt in answer.sentence) == (not excludes_0)


def test_the_best_method_has_several_seeds_if_any_has_and_the_baseline_may_win():
    (answer,) = answers_of(supervised=[0.6, 0.7], ssl_gan=[0.7, 0.81], dcgan=[0.99])
    assert answer.best == "ssl_gan" and "supervised" in answer.sentence
    (answer,) = answers_of(supervised=[0.8, 0.9], ssl_gan=[0.7, 0.8], ec_gan=[0.1, 0.2])
    assert answer.best == "supervised" and "Ahead of ssl_gan: +.100 [.100, .100]" in answer.sentence
    (answer,) = answers_of(supervised=[0.8, 0.9])
    assert not answer.shown and answer.sentence == "No other method to compare with."
    (answer,) = answers_of(ssl_gan=[{"accuracy": 0.5}])
    assert answer.score.startswith("Accuracy .500") and answer.best == "ssl_gan"


# Finding rows.


def test_rows_come_back_from_their_file_as_the_same_tables(tmp_path):
    for i, made in enumerate([row(seed=s, labels=n) for n in (25, 10) for s in (1, 0)]):
        make_run(tmp_path / "runs" / f"deep/{i}", made)
    first, second = tmp_path / "a", tmp_path / "b"
    report.write([tmp_path / "runs"], first, tmp_path / "x.jsonl")
    report.write([tmp_path / "x.jsonl"], second, tmp_path / "y.jsonl")
    assert (first / "report.md").read_text() == (second / "report.md").read_text()
    assert (tmp_path / "x.jsonl").read_text() == (tmp_path / "y.jsonl").read_text()
    both = rows.find([tmp_path / "x.jsonl", tmp_path / "runs"])
    assert len(both.runs) == 4 and not both.repeated
    order = [(r.budget.number, r.seed) for r in both.runs]
    assert order == [(10, 0), (10, 1), (25, 0), (25, 1)]


def test_runs_of_other_settings_are_not_averaged_though_no_sweep_made_them(tmp_path):
    for name, lr, seed, score in (("a", 5e-4, 0, 0.9), ("b", 1e-5, 0, 0.5), ("c", 1e-5, 1, 0.6)):
        config = base("ssl_gan", data="phantom", size=32, seed=seed)
        config.method.lr_d, config.data.labels_per_class = lr, 10
        make_run(tmp_path / name, row(seed=seed, score=score), config.to_dict())
    (panel,) = rows.find([tmp_path]).panels
    assert {name: len(runs) for name, runs in panel.columns.items()} == {
        "ssl_gan": 1,
        "ssl_gan, lr_d 1e-05": 2,
    }


def test_unfinished_damaged_and_repeated_runs_are_named_and_the_rest_reported(tmp_path):
    make_run(tmp_path / "good", row())
    make_run(tmp_path / "later", row(score=0.1))  # the same cell and seed
    make_run(tmp_path / "open", None)
    for name, text in {
        "torn": '{"method"',
        "list": "[]",
        "nan": json.dumps(row(score=math.nan)),
    }.items():
        (make_run(tmp_path / name, None) / "result.json").write_text(text)
    found = report.write([tmp_path], tmp_path)
    counts = len(found.runs), len(found.unfinished), len(found.unreadable), len(found.repeated)
    assert counts == (1, 1, 3, 1)
    text = (tmp_path / "report.html").read_text()
    assert f"{tmp_path.name}/torn (not JSON)" in text and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"test": ', "x.jsonl:2: not JSON"),
        ("[1]", "x.jsonl:2: not a JSON object"),
        (json.dumps(row() | {"seed": "a"}), "x.jsonl:2: 'seed'"),
        (json.dumps(row(score={"ece": math.inf})), "x.jsonl:2: not JSON"),
    ],
)
def test_a_damaged_line_is_an_error_that_names_it(tmp_path, line, message):
    path = write_rows(tmp_path / "x.jsonl", row())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        rows.find([path])
    assert "\n" not in str(caught.value)


def test_committed_results_can_be_read():
    found = rows.find(sorted((ROOT / "configs" / "results").glob("*.jsonl")))
    assert found.runs and not found.unreadable


def test_every_committed_row_names_the_commit_that_made_it():
    """So that rows from before a change that moves numbers are told from those after it."""
    lines = [
        json.loads(line)
        for path in (ROOT / "configs" / "results").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(lines) > 400
    assert all(re.fullmatch("[0-9a-f]{7,40}", line.get("commit", "")) for line in lines)


def test_the_settings_of_a_committed_rows_command_stand_in_its_cell():
    found = rows.find(sorted((ROOT / "configs" / "results").glob("*.jsonl"))).runs
    checked = 0
    for run in found:
        for key, value in re.findall(
            r"--config\.(method\.\w+|train\.steps)=(\S+)", run.row["command"]
        ):
            assert str(run.row["cell"][key]) == value, run.name
            checked += 1
    assert checked > 150


# The page and its figures.


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made_report(tmp_path_factory):
    """Two methods, two budgets, two seeds; a run tested on one class; a name that is HTML."""
    top = tmp_path_factory.mktemp("runs")
    for method in ("supervised", "ssl_gan"):
        for labels in (10, 25):
            for seed in (0, 1):
                content = row(method, seed, 0.7 + seed / 100, labels, machine="<b onload=x>")
                label = np.zeros(9, int) if (labels, seed) == (25, 1) else None
                probs = np.full((9, 2), 0.5) if label is not None else None
                make_run(top / method / f"{labels}_{seed}", content, None, probs, label)
    report.write([top], top / "out")
    return top


def test_page_is_whole_and_loads_nothing(made_report):
    text = (made_report / "out" / "report.html").read_text()
    page = Page(text)
    assert not page.open
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "b"} & set(names)
    assert "http://" not in text and "https://" not in text and "SECRET" not in text
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    # 2 learning curves; ROC and reliability, before and after calibration, of 2 budgets;
    # 2 confusions; 2 training curves; 2 sample grids.
    assert len(images) == 14 and all(i["alt"] and i["src"].startswith("data:") for i in images)
    assert all(attrs["scope"] in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert "Not for clinical use" in text and names.count("details") == 1


HARNESS = """<script>
const shown = (w, d, width) => { const i = [...d.images]; return {
  fits: d.documentElement.scrollWidth <= width, pictures: i.length,
  loaded: i.filter(x => x.naturalWidth).length, scripts: d.scripts.length,
  fetched: w.performance.getEntriesByType("resource").length,
  text: d.body.innerText, page: w.getComputedStyle(d.body).backgroundColor,
  colors: ["body", ".note", ".warning", "figcaption", "summary", "td"].map(x => {
    let e = d.querySelector(x), color = w.getComputedStyle(e).color, on;
    while ((on = w.getComputedStyle(e).backgroundColor) == "rgba(0, 0, 0, 0)") e = e.parentElement;
    return [color, on] }) } };
onload = () => { const frames = [...document.querySelectorAll("iframe")].map(
  f => shown(f.contentWindow, f.contentWindow.document, f.width));
  document.body.textContent = "found " + JSON.stringify(frames) + " end" };
</script>"""


def contrast(*colors):
    """The ratio of WCAG 2: from 1 to 21."""
    levels = [np.array(re.findall("[0-9.]+", color)[:3], float) / 255 for color in colors]
    light = [np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) for x in levels]
    low, high = sorted(x @ [0.2126, 0.7152, 0.0722] for x in light)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_page_fits_every_screen_reads_well_and_loads_nothing_in_a_browser(
    made_report, tmp_path, scheme
):
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if not browser:
        pytest.skip("needs chromium")
    report.write([made_report / "ssl_gan" / "10_0"], tmp_path)
    page = (tmp_path / "report.html").as_uri()
    frames = [f"<iframe src={page} width={x} height=800></iframe>" for x in (390, 900, 1400)]
    (tmp_path / "frames.html").write_text("".join(frames) + HARNESS)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'browser'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += ["--allow-file-access-from-files", "--virtual-time-budget=9000", "--dump-dom"]
    flags += [f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"]
    done = subprocess.run(
        [browser, *flags, (tmp_path / "frames.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    answer = re.search(r"found (.*) end", html.unescape(done.stdout), re.S)
    assert answer, done.stdout + done.stderr
    screens = json.loads(answer[1])
    assert len(screens) == 3
    for found in screens:
        assert found["fits"] and found["pictures"] == found["loaded"] == 6
        assert found["scripts"] == found["fetched"] == 0 and "Worst errors" in found["text"]
        assert (contrast(found["page"], "0 0 0") < 2) == (scheme == "dark")
        assert all(contrast(*colors) > 4.5 for colors in found["colors"]), found["colors"]


TEXTS = [r"$x_{$ \frac{ 100 % <b>&amp; 日本", "_private", "a\x00b\udcff"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_settings_of_any_text_name_columns_and_legends_as_they_stand(text, tmp_path):
    for labels in (10, 25):
        for name in (text, "plain"):
            cell = {"scenario": name, "labels": labels, "seed": 0, "method.net": text}
            folder = tmp_path / f"{labels}{name == text}"
            make_run(folder, row(labels=labels, cell=cell))
    (panel,) = rows.find([tmp_path]).panels
    drawn = [picture for group in figures.of_panel(panel).values() for picture in group]
    assert len(drawn) == 14
    for picture in drawn:
        if "svg" in picture.uri:
            svg = base64.b64decode(picture.uri.partition(",")[2])
            root = ElementTree.fromstring(svg)  # whole, and no letter that XML refuses
            legend = root.findall(".//{*}g[@id='legend_1']//{*}g/{*}g")
            assert len(legend) >= 2 or re.match("Training|Confusion", picture.alt)
    report.write([tmp_path], tmp_path / "out")
    written = (tmp_path / "out" / "report.html").read_text()
    assert not Page(written).open and "<b>" not in written
    assert (tmp_path / "out" / "report.md").read_text()


def test_an_installed_package_has_the_template(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", f"--build-lib={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "ssl_gan_jax" / "report" / "page.html").is_file()


def test_the_page_names_the_positive_class(made_report):
    parts = page.sections(rows.find([made_report]))
    classes = parts and rows.find([made_report]).runs[0].row["classes"]
    assert any(note.startswith(f"Positive class: {classes[-1]};") for note in parts[0].notes)


def test_real_images_are_opened_only_when_asked_for(made_report, monkeypatch):
    from ssl_gan_jax.data import dataset

    calls = []

    def open_dataset(data, seed):
        calls.append(data["name"])
        records = type("Records", (), {"image": np.zeros((70, 8, 8, 1), np.uint8)})
        return dataset.Dataset(records, np.arange(70), *[np.arange(0)] * 3)

    monkeypatch.setattr(dataset, "open_dataset", open_dataset)
    (panel,) = rows.find([made_report]).panels
    drawn = figures.of_panel(panel)
    assert [len(group) for group in drawn.values()] == [2, 6, 2, 2, 2] and not calls
    (real,) = figures.of_panel(panel, real_images=True)["Real images"]
    assert calls == ["phantom"] and real.caption.startswith("WARNING")


def test_curves_agree_with_the_metrics():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 200)
    p = np.round(np.clip(rng.normal(0.3 + 0.4 * label, 0.3), 0, 1), 1)  # with ties
    probs, decision = np.stack([1 - p, p], axis=1), p >= 0.5
    said = predictions.Predictions(
        ["normal", "ill"], [""] * 200, label, probs, decision.astype(int)
    )
    scores = metrics.scores(probs, label)
    assert np.trapezoid(*predictions.roc(said)[::-1]) == pytest.approx(scores["auroc"])
    top, right = predictions.confidence(said)
    mean, share = predictions.reliability(top, right)
    n = np.histogram(top, bins=np.linspace(0, 1, metrics.ECE_BINS + 1))[0]
    assert (np.abs(mean - share) * n[n > 0]).sum() / 200 == pytest.approx(scores["ece"])
    assert predictions.roc_curves([said._replace(label=np.ones(200, int))]) == []
    (_, tn, fp), (_, fn, tp) = predictions.confusion(said).rows
    assert int(tp) / (int(tp) + int(fn)) == pytest.approx(scores["sensitivity"])
    assert int(tn) / (int(tn) + int(fp)) == pytest.approx(scores["specificity"])


def test_worst_errors_are_those_surest_of_the_wrong_class(tmp_path):
    p, label, path = [0.9, 0.2, 0.6, 0.99, 0.1], [0, 1, 0, 1, 0], tmp_path / "predictions.csv"
    probs = np.stack([1 - np.array(p), p], axis=1)
    write_predictions(path, ["a.png", "=b.png", "c.png", "d.png", "e.png"], label, probs,
                      ["normal", "ill"])  # fmt: skip
    table = predictions.worst_errors(predictions.read(tmp_path))
    assert [line[0] for line in table.rows] == ["a.png", "'=b.png", "c.png"]
    assert table.rows[0][1:] == ["normal", "ill", ".100"]


def test_a_single_run_names_its_errors_and_several_do_not(made_report):
    for path, named in ((made_report / "ssl_gan" / "10_0", True), (made_report, False)):
        found = rows.find([path])
        assert ("SECRET" in page.markdown(found, page.sections(found))) == named


def test_damaged_files_of_a_run_cost_their_figures_only(tmp_path):
    folder = make_run(tmp_path / "r", row(score={}))
    for name in ("predictions.csv", "calibration.json", "metrics.jsonl", "samples/000100.png"):
        (folder / name).write_bytes(b"\x89PNG\xff{")
    (panel,) = rows.find([tmp_path]).panels
    assert figures.of_panel(panel) == {}


# The command.


@pytest.fixture
def call(monkeypatch, capsys):
    """The command with these arguments: its exit code, and what it prints."""

    def call(*args):
        monkeypatch.setattr("sys.argv", ["report", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            runpy.run_module("ssl_gan_jax.report", run_name="__main__")
        return end.value.code, "".join(capsys.readouterr())

    return call


def test_command_writes_report_and_rows(made_report, tmp_path, call):
    code, out = call(made_report, f"--out={tmp_path}", f"--rows={tmp_path / 'x.jsonl'}")
    assert code == 0 and out.splitlines()[-3:] == ["runs: 8", "unfinished: 0", "unreadable: 0"], out
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert len(lines) == 8 and json.loads(lines[0])["cell"]["labels"] == 10
    assert (tmp_path / "report.md").read_text() == (made_report / "out/report.md").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "RUNS"),
        (["nowhere"], "nowhere: there is no such"),
        (["configs", "--ouut=x"], "ouut"),
        (["configs"], "no run folders"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args, message, call):
    code, out = call(*args)
    assert code == 2 and len(out.strip().splitlines()) == 1, out
    assert out.startswith("error: ") and message in out


def test_what_adaptation_made_worse_is_the_first_thing_that_the_report_says():
    def transfer(scenario, seed, score, **changes):
        cell = {"scenario": scenario, "source": "a", "target": "b", **changes}
        made = row(seed=seed, score=dict.fromkeys(METRICS, score), cell=cell)
        made["test"]["accuracy_at_half"] = made["test"]["accuracy"]
        if scenario.endswith("adapted"):
            made |= {"unlabelled": 9, "splits": {"unlabelled": {"sites": {"b": 9}}}}
        return rows.to_run(made, "")

    shot, raw = {"adapted": "shot"}, {"data.equalize": "none"}
    runs = [
        *(transfer("cnn", s, 0.7, **raw) for s in range(3)),
        *(transfer("cnn", s, 0.6, **raw, **shot) for s in range(3)),
        *(transfer("cnn", s, 0.8) for s in range(3)),
        *(transfer("cnn", s, 0.75 - s / 100, **shot) for s in range(3)),
        *(transfer("gan", s, 0.8) for s in range(3)),
        *(transfer("gan_adapted", s, 0.9) for s in range(3)),
        *(transfer("gan_adapted", s, 0.85, **shot) for s in range(3)),
    ]
    found = rows.Found(runs, [], [], [], [])
    first, _, _ = page.markdown(found, page.sections(found)).partition("\n")
    assert "a to b: cnn, adapted shot, 10 a class (AUROC -.060 [-." in first
    assert "gan_adapted, adapted shot, 10 a class (AUROC -.050" in first
    assert "data.equalize none against cnn, data.equalize none, 10 a class (AUROC -.100" in first
    assert "against gan (" not in first  # which it made better
    assert first.strip("*") in page.html(found, page.sections(found))
    better = rows.Found([run for run in runs if "adapted shot" not in run.changes], [], [], [], [])
    assert "Adaptation" not in page.markdown(better, page.sections(better))
