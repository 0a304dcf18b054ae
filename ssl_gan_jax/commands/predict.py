"""Predicts the classes of images with a trained run.

    python -m ssl_gan_jax.predict --workdir=RUN IMAGE_OR_FOLDER... --out=predictions.csv
    python -m ssl_gan_jax.predict --workdir=RUN @list.txt --operating_point=sensitivity=.95
    python -m ssl_gan_jax.predict --workdir=RUN images --explain=overlays --json | jq .decision

Takes files, folders (all images below them, as in training), and @FILE, a list with a path a line.
Writes a row for each image: path, p_<class> (with the run's temperature), decision (at the
threshold of --operating_point, by default Youden's), ood_score and ood. ood is "yes" if the score
is above 1: the image is unlike the run's images, and its prediction means nothing. Both are empty
if the run has no calibration. If an image may have several findings, the decision names those that
reach their own thresholds, as in a|b, or none. --json prints the rows as JSON lines.

If positives are rarer or more frequent than among the training labels (which a run with a budget of
labels draws evenly over the classes), --prevalence=.1 corrects the probabilities for their share,
and moves the threshold: youden and balanced then call the fewest images wrong, a sensitivity or
specificity calls the same images positive. --adapt_threshold estimates the share from the
predictions (EM); it is refused if the images differ from those of training by more than the share.

Files that cannot be read are listed on stderr and skipped. Not for clinical use.

Exit codes: 0 done, 1 some files skipped or the estimate refused, 2 bad input.
"""

import argparse
import collections
import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ssl_gan_jax import inference, paths
from ssl_gan_jax.commands import arguments
from ssl_gan_jax.data import images
from ssl_gan_jax.data.pixels import UnreadableImage
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import explain, findings, metrics, prior_shift
from ssl_gan_jax.evaluation.new_prior import new_prior
from ssl_gan_jax.files import atomic_write, write_png
from ssl_gan_jax.inference import FinishedRun, Prediction
from ssl_gan_jax.targets import FINDINGS

CHUNK = 256  # images in memory at a time


def find(arguments: Sequence[str]) -> list[str]:
    """The files that the arguments name, in their order, without repeats; folders are sorted.

    Raises:
      UserError: a list cannot be read, or there is no file.
    """
    found: list[str] = []
    for text in arguments:
        if text.startswith("@"):
            try:
                lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise UserError(f"{text[1:]}: this list cannot be read ({error})") from None
            found += [line.strip() for line in lines if line.strip()]
        elif Path(text).is_dir():
            found += [str(Path(text, name)) for name in images.files_in(Path(text))]
        else:
            found.append(text)
    if not found:
        raise UserError(f"no image in {', '.join(arguments)}")
    return list(dict.fromkeys(found))


def read(
    names: Sequence[str], data: Mapping[str, Any], skipped: list[tuple[str, str]]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yields the paths of up to CHUNK images, and the prepared images, uint8 [n,S,S,1].

    Decodes on all cores. Appends (path, reason) to `skipped` for each file that cannot be read.

    Args:
      names: paths of the files.
      data: of the run's config.
      skipped: is extended.
    """

    def prepared(path: str) -> np.ndarray | UnreadableImage:
        try:
            image = images.read_image(path)
            return images.prepare(image, data["size"], data["equalize"], data["aspect"])
        except UnreadableImage as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            results = list(zip(chunk, pool.map(prepared, chunk), strict=True))
            skipped += [(p, str(x)) for p, x in results if isinstance(x, UnreadableImage)]
            readable = [(p, x) for p, x in results if not isinstance(x, UnreadableImage)]
            if readable:
                yield [p for p, _ in readable], np.stack([x for _, x in readable])


def rows(
    run: FinishedRun, paths: Sequence[str], answer: Prediction, threshold: float | np.ndarray
) -> list[dict]:
    """A JSON-ready row for each image, with the columns of the CSV file."""
    if run.target is FINDINGS:
        decisions = findings.decisions(answer.probability, threshold, run.classes)
    else:
        decisions = [run.classes[k] for k in metrics.decide(answer.probability, threshold)]
    return [
        {
            "path": path,
            **{f"p_{name}": p for name, p in zip(run.classes, probability, strict=True)},
            "decision": decision,
            "ood_score": None if np.isnan(ood) else float(ood),
            "ood": None if np.isnan(ood) else "yes" if ood > 1 else "no",
        }
        for path, probability, decision, ood in zip(
            paths, answer.probability.tolist(), decisions, answer.ood, strict=True
        )
    ]


def _overlay_name(i: int, path: str) -> str:
    """`00012_STEM.png`; the stem is cut to 200 bytes."""
    stem = Path(path).stem.encode()[:200].decode(errors="ignore")
    return f"{i:05d}_{stem}.png"


def write_csv(path: str | Path, table: Sequence[dict[str, Any]]) -> None:
    """Writes rows atomically; escapes cells that a spreadsheet would take for a formula."""
    with atomic_write(path, newline="") as file:
        out = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        out.writeheader()
        for row in table:
            out.writerow(
                {k: metrics.csv_cell(v) if isinstance(v, str) else v for k, v in row.items()}
            )


def check_outputs(out: Path | None, overlays: Path | None, images_read: Sequence[str]) -> None:
    """Raises UserError if an output would overwrite an input or another kind of file."""
    if out:
        paths.result_path(out, "--out", images_read)
        if out.is_file() and out.stat().st_size:
            with open(out, encoding="utf-8", errors="replace") as file:
                if not file.readline().startswith("path,p_"):
                    raise UserError(
                        f"--out={out}: exists and is no table of predictions; choose another"
                    )
    if overlays and overlays.resolve() in {Path(p).resolve().parent for p in images_read}:
        raise UserError(f"--explain={overlays}: holds images that are read; choose another folder")


def image_argument(text: str) -> str:
    """Expands the `~` of an IMAGE, also in @~/list.txt."""
    mark = "@" * text.startswith("@~")
    return mark + os.path.expanduser(text.removeprefix(mark))


def _kinds(files: Sequence[str]) -> str:
    """Counts files by suffix, as "3 .png, 1 without suffix"."""
    count = collections.Counter(Path(file).suffix.lower() or "without suffix" for file in files)
    return ", ".join(f"{n} {suffix}" for suffix, n in count.most_common())


PARSER = arguments.Parser("predict", __doc__)
PARSER.add_argument(
    "images", nargs="+", type=image_argument, metavar="IMAGE", help="file, folder or @list"
)
PARSER.add_output("--out", "CSV", help="default: predictions.csv, or none with --json")
PARSER.add_argument("--operating_point", default="youden", metavar="POINT",
                    help="youden, balanced (.5), sensitivity=X or specificity=X")  # fmt: skip
PRIOR = PARSER.add_mutually_exclusive_group()
PRIOR.add_argument("--prevalence", type=arguments.share, metavar="SHARE",
                   help="of the positive class among these images")  # fmt: skip
PRIOR.add_argument("--adapt_threshold", action="store_true", help="estimate that share")
PARSER.add_output("--explain", "DIR", help="folder for overlays of the evidence, as PNG files")
PARSER.add_argument("--explain_class", metavar="NAME",
                    help="what the evidence is for; default: the positive class or, of several, "
                         "the predicted class or likeliest finding")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Predicts; returns 1 if a file was skipped or an estimate of the prior refused."""
    from rich.console import Console
    from rich.progress import Progress

    files = find(args.images)
    out = args.out or (None if args.json else arguments.output("predictions.csv", "--out"))
    check_outputs(out, args.explain, files)
    run = inference.open_run(args.workdir)
    if args.prevalence or args.adapt_threshold:
        inference.require_classes(run, "another prevalence (--prevalence, --adapt_threshold)")
    threshold = run.calibration.threshold(args.operating_point)
    predict = inference.predictor(run)
    if args.explain_class is not None and not args.explain:
        raise UserError("--explain_class: give the folder for overlays, --explain=DIR, too")
    heat = explain.explainer(run, args.explain_class) if args.explain else None
    if run.calibration.ood_detector is None:
        print(
            f"{run.workdir} has no calibration: ood stays empty; "
            f"python -m ssl_gan_jax.calibration --workdir={run.workdir} makes one",
            file=sys.stderr,
        )
    print(f"{len(files)} images: {_kinds(files)}", file=sys.stderr)
    if len(run.classes) == 2 and run.target is not FINDINGS:
        print(f"positive class: {run.classes[-1]}; the other: {run.classes[0]}", file=sys.stderr)
    read_names: list[str] = []
    answers: list[Prediction] = []
    skipped: list[tuple[str, str]] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=len(files))
        for names, pixels in read(files, run.config["data"], skipped):
            answers.append(predict(pixels))
            if heat:
                pictures = zip(names, map(explain.overlay, pixels, heat(pixels)), strict=True)
                for i, (name, picture) in enumerate(pictures, len(read_names)):
                    with paths.private():  # it shows a patient
                        write_png(args.explain / _overlay_name(i, name), picture)
            read_names += names
            bar.update(task, completed=len(read_names) + len(skipped))
    table, refused = [], False
    if answers:
        answer = Prediction(*map(np.concatenate, zip(*answers, strict=True)))
        if args.prevalence or args.adapt_threshold:
            new = new_prior(
                prior_shift.training_prior(run.result),
                *(run.calibration, run.classes, *answer, args.operating_point, args.prevalence),
            )
            answer = answer._replace(probability=new.corrected(answer.probability))
            threshold, refused = new.threshold, new.refused
            print(new.line, file=sys.stderr)
        table = rows(run, read_names, answer, threshold)
    if out and table:
        write_csv(out, table)  # first, because printing fails if the reader is gone
    for path, reason in skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if not table:
        raise UserError(f"none of the {len(files)} images can be read")
    if args.json:
        print("\n".join(json.dumps(row) for row in table))
    ood = sum(row["ood"] == "yes" for row in table)
    print(
        f"{len(table)} images predicted, {ood} out of distribution, {len(skipped)} skipped",
        file=sys.stderr,
    )
    return int(bool(skipped) or refused)


if __name__ == "__main__":
    arguments.run(main, PARSER)
