"""Figures as self-contained images: matplotlib without a screen or global state."""

import base64
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluate import ECE_BINS
from ssl_gan_jax.report.published import beside
from ssl_gan_jax.report.rows import Budget, Panel, Run, read_json
from ssl_gan_jax.report.tables import NAMES, estimate, main_metrics
from ssl_gan_jax.writer import grid

# Okabe and Ito's colours, told apart by the colour-blind; then the same with other lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
LINES = ("-", "--", ":", "-.")
STYLE = {
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "ssl_gan_jax",  # the same figure, the same bytes
}
POINTS = np.linspace(0, 1, 101)  # false positive rates at which ROC curves are averaged
MAX_PIXELS = 4096**2
Curve = tuple[np.ndarray, np.ndarray]


class Picture(NamedTuple):
    """An image as a data: URI, with the words for who cannot see it."""

    uri: str
    alt: str
    caption: str


class Predictions(NamedTuple):
    """Of labelled test images: class probabilities [N,K] and class indices [N]."""

    probs: np.ndarray
    label: np.ndarray


def of_panel(panel: Panel, real_images: bool = False) -> list[list[Picture]]:
    """All figures that the panel's rows and folders allow, by kind."""
    images = [*sample_grids(panel), *(real_grid(panel) if real_images else ())]
    curves = (learning_curves, prediction_curves, training_curves)
    return [group for group in (*(list(draw(panel)) for draw in curves), images) if group]


def learning_curves(panel: Panel) -> Iterator[Picture]:
    """Accuracy (of MNIST errors) and AUROC over labels, of experiments with several budgets."""
    part = next((p for p in ("test", "validation") if any(r.part == p for r in panel.runs)), None)
    limited = [budget for budget in panel.budgets if budget.number]  # a log axis has no "all"
    if len(limited) < 2 or part is None:
        return
    for metric in (main_metrics(panel)[0], "auroc"):
        figure, axes = _figure("labelled training images", f"{NAMES[metric]}, {part} images")
        colours = {}
        for i, (name, runs) in enumerate(panel.columns.items()):
            colours.setdefault(runs[0].method, _line(i)["color"])
            judged = [run for run in runs if run.part == part]
            points = [_point([r for r in judged if r.budget == b], metric) for b in limited]
            if any(points):
                x, y, low, high = zip(*filter(None, points), strict=True)
                axes.plot(x, y, label=name, marker="o", markersize=4, **_line(i))
                axes.fill_between(x, low, high, color=_line(i)["color"], alpha=0.15, linewidth=0)
        if not axes.lines:
            continue
        classes = len(panel.runs[0].row["classes"])
        for paper in beside(panel, metric) if part == "test" else ():
            values = {_images(b, classes): v for b, v in paper.values.items() if b.number}
            if values and paper.method:
                style = {"color": colours.get(paper.method, "#777777"), "linestyle": (0, (4, 3))}
                axes.plot(
                    *zip(*values.items(), strict=True), label=paper.title, marker="x", **style
                )
        ticks = sorted({x for line in axes.lines for x in line.get_xdata()})
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(ticks, labels=[f"{x:g}" for x in ticks], rotation=45)
        what = f"{NAMES[metric]} over the number of labelled images, {panel.title}"
        caption = f"{NAMES[metric]} on {part} images; bands: 95 % t-intervals; dashed: papers."
        yield _picture(figure, what, caption)


def prediction_curves(panel: Panel) -> Iterator[Picture]:
    """For each budget ROC curves (of two classes) and reliability: runs thin, their mean thick."""
    for budget in panel.budgets:
        found: dict[str, list[Predictions]] = {}
        for name, runs in panel.columns.items():
            # The predictions are of test images, which say nothing of runs made for tuning.
            tested = [run for run in runs if (run.budget, run.part) == (budget, "test")]
            files = [run.folder / "predictions.csv" for run in tested if run.folder]
            found[name] = [p for file in files if (p := read_predictions(file))]
        for kind, curves_of, x, y in (
            ("ROC curves", roc_curves, "false positive rate", "true positive rate"),
            ("Reliability", reliability_curves, "largest probability", "share that is right"),
        ):
            figure, axes = _figure(x, y)
            axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle=":")
            counts = []
            for i, (name, predictions) in enumerate(found.items()):
                if curves := curves_of(predictions):
                    for curve in curves[:-1]:
                        axes.plot(*curve, alpha=0.35, **_line(i) | {"linewidth": 0.6})
                    axes.plot(*curves[-1], label=name, **_line(i))
                    counts.append(f"{name} n={len(curves) - 1}")
            if counts:
                caption = f"{kind}, labels: {budget}. Thin: runs; thick: their mean "
                alt = f"{kind}, labels: {budget}, {panel.title}"
                yield _picture(figure, alt, f"{caption}({', '.join(counts)}).")


def training_curves(panel: Panel) -> Iterator[Picture]:
    """Loss terms and validation AUROC over steps, of a run of each column."""
    for which, run in _examples(panel, "metrics.jsonl"):
        lines = read_lines(run.folder / "metrics.jsonl")
        figure, above, below = _figure("step", "loss terms", "AUROC")
        terms = sorted({key for line in lines for key in line if re.match("train/[LJ]", key)})
        for i, term in enumerate(terms):
            above.plot(*_series(lines, term), label=term.removeprefix("train/"), **_line(i))
        below.plot(*_series(lines, "validation/auroc"), color="#000000", marker=".")
        caption = f"{which}: loss terms, and AUROC on validation images."
        if terms:
            yield _picture(figure, f"Training curves, {which}, {panel.title}", caption)


def sample_grids(panel: Panel) -> Iterator[Picture]:
    """The newest samples of a run of each column that draws any."""
    for which, run in _examples(panel, "samples/*.png"):
        path = max(run.folder.glob("samples/*.png"))
        try:
            with Image.open(path, formats=["PNG"]) as image:
                if image.width * image.height > MAX_PIXELS:
                    continue
                pixels = np.asarray(image.convert("L"))
        except (OSError, ValueError, SyntaxError):  # the last is Pillow's for a broken PNG
            continue
        which = f"{which}, step {path.stem.lstrip('0')}"
        caption = f"Generated, no patient: {which}. Same z where the networks' z sizes agree."
        yield _png(pixels, f"Grid of generated images, {which}", caption)


def real_grid(panel: Panel) -> Iterator[Picture]:
    """Up to 64 labelled training images of the panel's data. They may show patients.

    Raises:
      UserError: the data cannot be opened as the run's config says.
    """
    from ssl_gan_jax.data import task  # TensorFlow: only if asked for

    for _, run in list(_examples(panel, "config.json"))[:1]:
        try:
            opened = task.open_task(read_json(run.folder / "config.json")["data"], run.seed)
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{run.folder / 'config.json'}: does not say which data") from None
        images = opened.records.image[opened.labelled[:64]]
        caption = "WARNING: real training images, which may show patients: keep this page to "
        caption += f"those whom the terms of {panel.data} allow to see them."
        yield _png(grid(images / 127.5 - 1, columns=8), "Grid of real training images", caption)


def roc(p: Predictions) -> Curve | None:
    """False and true positive rates [P] of two classes, from 0 to 1; None where undefined."""
    positive = p.label == 1
    if p.probs.shape[1] != 2 or not 0 < positive.sum() < len(positive):
        return None
    order = np.argsort(-p.probs[:, 1], kind="stable")
    score, positive = p.probs[order, 1], positive[order]
    last = np.append(score[1:] != score[:-1], True)  # equal scores form one step
    fp, tp = (np.append(0, np.cumsum(hit)[last]) for hit in (~positive, positive))
    return fp / fp[-1], tp / tp[-1]


def roc_curves(predictions: Sequence[Predictions]) -> list[Curve]:
    """One for each run where it is defined, and last the mean of their true positive rates."""
    curves = [curve for p in predictions if (curve := roc(p))]
    if not curves:
        return []
    mean = np.mean([np.interp(POINTS, x, y) for x, y in curves], axis=0)
    return [*curves, (np.append(0, POINTS), np.append(0, mean))]


def reliability_curves(predictions: Sequence[Predictions]) -> list[Curve]:
    """One for each run over evaluate's ECE bins, and last that of all runs' images together."""
    sums = [_reliability(p) for p in predictions]  # each [3,ECE_BINS]
    all_sums = [*sums, sum(sums)] if sums else []
    return [(s[1, s[0] > 0] / s[0, s[0] > 0], s[2, s[0] > 0] / s[0, s[0] > 0]) for s in all_sums]


def read_predictions(path: Path) -> Predictions | None:
    """What `evaluate.write_predictions` wrote, without its paths; None where it is not readable."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            names = [name[2:] for name in next(rows) if name.startswith("p_")]
            # The writer puts an apostrophe before what a spreadsheet would take for a formula.
            index = {text: k for k, name in enumerate(names) for text in (name, f"'{name}")}
            kept = [(row[2 : 2 + len(names)], index[row[1]]) for row in rows if row[1]]
        probs = np.array([row for row, _ in kept], np.float64).reshape(len(kept), len(names))
    except (OSError, ValueError, KeyError, IndexError, StopIteration, csv.Error):
        return None
    sound = probs.size and np.isfinite(probs).all()
    return Predictions(probs, np.array([label for _, label in kept])) if sound else None


def read_lines(path: Path) -> list[dict]:
    """The readable lines of metrics.jsonl: a crash may have torn the last."""
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if isinstance(read, dict) and isinstance(read.get("step"), int):
            lines.append(read)
    return lines


def _reliability(p: Predictions) -> np.ndarray:
    """For each bin the images, the sum of their largest probabilities, and how many are right."""
    top = p.probs.max(axis=1)
    bins = np.clip(np.ceil(top * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    right = p.probs.argmax(axis=1) == p.label
    return np.stack([np.bincount(bins, w, ECE_BINS) for w in (np.ones_like(top), top, right)])


def _point(runs: Sequence[Run], metric: str) -> tuple[float, float, float, float] | None:
    """Labelled images, mean, low and high of runs of one budget."""
    e = estimate([score.value for run in runs if (score := run.score(metric))])
    if e is None:
        return None
    span = (e.mean, e.mean) if e.low is None else (e.low, e.high)
    return _images(runs[0].budget, len(runs[0].row["classes"])), e.mean, *span


def _images(budget: Budget, classes: int) -> int:
    return budget.number * (classes if budget.unit == "a class" else 1)


def _examples(panel: Panel, needs: str) -> Iterator[tuple[str, Run]]:
    """A run of each column whose folder has such a file, with its name; all of one budget if so."""
    usual = max(panel.budgets, key=[run.budget for run in panel.runs].count)
    for name, runs in panel.columns.items():
        for run in sorted(runs, key=lambda run: (run.budget != usual, run.place)):
            if run.folder and next(run.folder.glob(needs), None):
                yield f"{name}, labels: {run.budget}, seed {run.seed}", run
                break


def _series(lines: Sequence[dict], key: str) -> tuple[list, list]:
    known = [line for line in lines if isinstance(line.get(key), int | float)]
    return [line["step"] for line in known], [line[key] for line in known]


def _line(i: int) -> dict:
    which = LINES[i // len(COLOURS) % len(LINES)]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": which, "linewidth": 1.6}


def _figure(x: str, *ys: str) -> tuple[Figure | Axes, ...]:
    """The figure, and one axes for each of `ys`, below one another."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        every = np.ravel(figure.subplots(len(ys), sharex=True, height_ratios=[2, 1][: len(ys)]))
    for axes, y in zip(every, ys, strict=True):
        axes.set_ylabel(y)
    every[-1].set_xlabel(x)
    return figure, *every


def _picture(figure: Figure, alt: str, caption: str) -> Picture:
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.legend(loc="outside lower center", ncols=2)  # where it hides nothing
        figure.savefig(file, format="svg", metadata={"Date": None})
    return Picture(_uri(file, "svg+xml"), alt, caption)


def _png(pixels: np.ndarray, alt: str, caption: str) -> Picture:
    """`pixels` [h,w] uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png", optimize=True)
    return Picture(_uri(file, "png"), alt, caption)


def _uri(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
