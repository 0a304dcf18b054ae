"""Figures as data: URIs, made by matplotlib without a screen or global state."""

import base64
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

from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.files import grid
from ssl_gan_jax.report import predictions, tables
from ssl_gan_jax.report.published import paper_columns
from ssl_gan_jax.report.rows import Budget, Panel, ReportRow, read_json
from ssl_gan_jax.report.tables import NAMES, mean_score

# Okabe and Ito's colours, which colour-blind readers can distinguish; then with other lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
LINES = ("-", "--", ":", "-.")
STYLE = {
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "ssl_gan_jax",  # equal figures have equal bytes
    "text.parse_math": False,  # names of settings may contain a $
}
MAX_PIXELS = 4096**2


class Picture(NamedTuple):
    """An image as a data: URI, with its alternative text and caption."""

    uri: str
    alt: str
    caption: str


def of_panel(panel: Panel, real_images: bool = False) -> dict[str, list[Picture]]:
    """All figures that the panel's rows and folders allow, by title."""
    kinds = {
        "Scores over labels": learning_curves(panel),
        "ROC and calibration": prediction_curves(panel),
        "Decisions at the chosen operating point": confusions(panel),
        "Training": training_curves(panel),
        "Generated images": sample_grids(panel),
        "Real images": real_grid(panel) if real_images else (),
    }
    return {title: pictures for title, kind in kinds.items() if (pictures := list(kind))}


def learning_curves(panel: Panel) -> Iterator[Picture]:
    """Accuracy and AUROC over the number of labels, if there are several budgets."""
    part = panel.part
    limited = [budget for budget in panel.budgets if not budget.is_all]  # for a log axis
    if len(limited) < 2 or part is None:
        return
    classes = len(panel.runs[0].row["classes"])

    def images(budget: Budget) -> int:
        return budget.number * (classes if budget.unit == "a class" else 1)

    for metric in ("accuracy", "auroc"):
        figure, axes = _figure("labelled training images", f"{NAMES[metric]}, {part} images")
        colours = {}
        for i, (name, runs) in enumerate(panel.columns.items()):
            colours.setdefault(runs[0].method, _line(i)["color"])
            points = []
            for budget in limited:
                scored = [run for run in runs if (run.part, run.budget) == (part, budget)]
                if e := mean_score(scored, metric):
                    span = (e.mean, e.mean) if e.low is None else (e.low, e.high)
                    points.append((images(budget), e.mean, *span))
            if points:
                x, y, low, high = zip(*points, strict=True)
                axes.plot(x, y, label=_label(name), marker="o", markersize=4, **_line(i))
                axes.fill_between(x, low, high, color=_line(i)["color"], alpha=0.15, linewidth=0)
        if not axes.lines:
            continue
        for paper in paper_columns(panel, metric) if part == "test" else ():
            values = {images(b): v for b, v in paper.values.items() if not b.is_all}
            if values and paper.method:
                style = {"color": colours.get(paper.method, "#777777"), "linestyle": (0, (4, 3))}
                axes.plot(values.keys(), values.values(), label=paper.title, marker="x", **style)
        ticks = sorted({x for line in axes.lines for x in line.get_xdata()})
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(ticks, labels=[f"{x:g}" for x in ticks], rotation=45)
        alt = f"{NAMES[metric]} over the number of labelled images, {panel.title}"
        caption = f"{NAMES[metric]} on {part} images; bands: 95 % t-intervals; dashed: papers."
        yield _picture(figure, alt, caption)


def prediction_curves(panel: Panel) -> Iterator[Picture]:
    """ROC and reliability, before and after calibration, of each budget: runs thin, mean thick."""
    roc = predictions.roc_curves, "false positive rate", "true positive rate"
    reliability = predictions.reliability_curves, "largest probability", "share correct"
    kinds = (
        ("ROC curves", predictions.read, *roc),
        ("Calibration before temperature scaling", predictions.read, *reliability),
        ("Calibration after temperature scaling", predictions.read_calibrated, *reliability),
    )
    for budget in panel.budgets:
        for kind, read, curves_of, x, y in kinds:
            figure, axes = _figure(x, y)
            axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle=":")
            counts = []
            for i, (name, runs) in enumerate(panel.columns.items()):
                tested = [run for run in tables.at_budget(runs, budget) if run.part == "test"]
                found = [p for run in tested if run.folder and (p := read(run.folder))]
                if curves := curves_of(found):
                    for curve in curves[:-1]:
                        axes.plot(*curve, alpha=0.35, **_line(i) | {"linewidth": 0.6})
                    axes.plot(*curves[-1], label=_label(name), **_line(i))
                    counts.append(f"{name} n={len(curves) - 1}")
            if counts:
                caption = f"{kind}, labels: {budget}. Thin: runs; thick: their mean "
                alt = f"{kind}, labels: {budget}, {panel.title}"
                yield _picture(figure, alt, f"{caption}({', '.join(counts)}).")


def confusions(panel: Panel) -> Iterator[Picture]:
    """Counts of test images by true and predicted class, for a run of each column."""
    for which, run in _examples(panel, "predictions.csv"):
        if run.part != "test" or not (p := predictions.read(run.folder)):
            continue
        counts = predictions.counts(p)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        figure, axes = _figure("predicted class", "true class")
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.grid(False)
        for (row, column), n in np.ndenumerate(counts):
            color = "white" if share[row, column] > 0.5 else "black"
            text = f"{n}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=color)
        names = [_label(name) for name in p.classes]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        threshold = run.row["test"].get("threshold")
        rule = "the likeliest class" if threshold is None else f"threshold {threshold:.3g}"
        caption = f"Decisions, {which}: {rule}; shares are of each row, the images of a class."
        yield _picture(figure, f"Confusion of test images, {which}, {panel.title}", caption)


def training_curves(panel: Panel) -> Iterator[Picture]:
    """Loss terms and validation AUROC over steps, for a run of each column."""
    for which, run in _examples(panel, "metrics.jsonl"):
        lines = read_lines(run.folder / "metrics.jsonl")
        figure, above, below = _figure("step", "loss terms", "AUROC")
        terms = sorted({key for line in lines for key in line if re.match("train/[LJ]", key)})
        for i, term in enumerate(terms):
            label = _label(term.removeprefix("train/"))
            above.plot(*_series(lines, term), label=label, **_line(i))
        below.plot(*_series(lines, "validation/auroc"), color="#000000", marker=".")
        caption = f"{which}: loss terms, and AUROC on validation images."
        if terms:
            yield _picture(figure, f"Training curves, {which}, {panel.title}", caption)


def sample_grids(panel: Panel) -> Iterator[Picture]:
    """The newest generated images, for a run of each column that has any."""
    for which, run in _examples(panel, "samples/*.png"):
        path = max(run.folder.glob("samples/*.png"))
        try:
            with Image.open(path, formats=["PNG"]) as image:
                if image.width * image.height > MAX_PIXELS:
                    continue
                pixels = np.asarray(image.convert("L"))
        except (OSError, ValueError, SyntaxError):  # SyntaxError: a damaged PNG
            continue
        which = f"{which}, step {path.stem.lstrip('0')}"
        caption = f"Generated, no patient: {which}. Same z if the networks' z sizes agree."
        yield _png(pixels, f"Grid of generated images, {which}", caption)


def real_grid(panel: Panel) -> Iterator[Picture]:
    """Up to 64 labelled training images of the panel's data, which may show patients.

    Raises:
      UserError: the data cannot be opened as the run's config says.
    """
    from ssl_gan_jax.data import dataset  # here, because it imports TensorFlow

    for _, run in list(_examples(panel, "config.json"))[:1]:
        path = run.folder / "config.json"
        try:
            opened = dataset.open_dataset(read_json(path.read_bytes())["data"], run.seed)
            if fingerprint := run.row.get("fingerprint"):  # missing in earlier versions
                dataset.check_data(run.folder, opened, run.row["classes"], fingerprint)
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path}: does not say which data") from None
        images = opened.records.image[opened.labeled[:64]]
        caption = "WARNING: real training images, which may show patients: the terms of "
        caption += f"{panel.data} say who may see this page."
        yield _png(grid(to_float(images), columns=8), "Grid of real training images", caption)


def read_lines(path: Path) -> list[dict]:
    """The complete lines of metrics.jsonl: a crash may have cut the last."""
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


def _examples(panel: Panel, needs: str) -> Iterator[tuple[str, ReportRow]]:
    """For each column a run with a file like `needs`, and a name; first of the commonest budget."""
    commonest = max(panel.budgets, key=[run.budget for run in panel.runs].count)
    for name, runs in panel.columns.items():
        for run in sorted(runs, key=lambda run: (run.budget != commonest, run.sort_key)):
            if run.folder and next(run.folder.glob(needs), None):
                yield f"{name}, labels: {run.budget}, seed {run.seed}", run
                break


def _series(lines: Sequence[dict], key: str) -> tuple[list, list]:
    points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
    return [step for step, _ in points], [value for _, value in points]


def _label(name: str) -> str:
    """A label for matplotlib, which hides labels with a leading _, and for SVG."""
    text = "".join(letter if letter.isprintable() else " " for letter in name)
    return f" {text}" if text.startswith("_") else text


def _line(i: int) -> dict:
    style = LINES[i // len(COLOURS) % len(LINES)]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": style, "linewidth": 1.6}


def _figure(x: str, *ys: str) -> tuple[Figure | Axes, ...]:
    """A figure with axes for each of `ys`, one below the other."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        plots = np.ravel(figure.subplots(len(ys), sharex=True, height_ratios=[2, 1][: len(ys)]))
    for axes, y in zip(plots, ys, strict=True):
        axes.set_ylabel(y)
    plots[-1].set_xlabel(x)
    return figure, *plots


def _picture(figure: Figure, alt: str, caption: str) -> Picture:
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        if labels := [text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]:
            columns = 2 if max(map(len, labels)) < 25 else 1
            figure.set_figheight(4 + 0.2 * len(labels) / columns)
            figure.legend(loc="outside lower center", ncols=columns)
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return Picture(_uri(file, "svg+xml"), alt, caption)


def _png(pixels: np.ndarray, alt: str, caption: str) -> Picture:
    """`pixels` [h,w] uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png", optimize=True)
    return Picture(_uri(file, "png"), alt, caption)


def _uri(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
