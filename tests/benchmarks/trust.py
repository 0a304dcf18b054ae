"""Measures what `predict`'s out-of-distribution flag and `--explain`'s maps are worth.

    python tests/benchmarks/trust.py --data_dir=DIR --out=configs/results/trust.jsonl RUN [RUN ...]

Of runs on `kermany`: the flag between the official test images and what is none of them, with DIR
holding also `mnist` and `nlm_tb`. Of runs on `phantom`: how often a map of HiResCAM, or Grad-CAM,
peaks inside the heart's shadow, of the test images called cardiomegaly, beside the shadow's share
of the image.
Appends one JSON row a run. Exit codes: 0 done, 2 bad input.
"""

from pathlib import Path

import jax
import numpy as np
import rows
from scipy import stats

from ssl_gan_jax import inference
from ssl_gan_jax.data import images, records
from ssl_gan_jax.data.sources import phantom
from ssl_gan_jax.data.sources.phantom import anatomy
from ssl_gan_jax.evaluation import explain, metrics
from ssl_gan_jax.training.result import fit_calibration

COMMAND = "python tests/benchmarks/trust.py --data_dir=DIR --out=OUT RUN"
DIGITS = 1000


def main(args):
    for folder in args.runs:
        run = inference.open_run(folder)
        task = inference.dataset_of(run, args.data_dir)
        if run.config["data"]["name"] == "phantom":
            measured = maps(run, task)
        else:
            measured = flag(run, task, args.data_dir)
        rows.append(args.out, {"run": run_name(run), **measured}, COMMAND)


def run_name(run):
    """Method, labels and seed: folders may be called anything."""
    row = run.result
    return f"{row['method']} on {row['data']}, {row['labelled']} labels, seed {row['seed']}"


def flag(run, task, data_dir):
    """AUROC of the score, and the share that is flagged, against each kind of other images."""
    fitted, _ = fit_calibration(jax.jit(run.method.classify), run.state, task)
    predict = inference.predictor(run._replace(calibration=fitted))
    xrays = task.records.image[task.test]
    known = predict(xrays).ood
    measured = {"test": len(known), "false_alarms": float((known > 1).mean())}
    for name, others in unfamiliar(xrays, run.config["data"], data_dir):
        score = predict(others).ood
        auroc = stats.mannwhitneyu(score, known).statistic / len(score) / len(known)
        measured[name] = {
            "n": len(score),
            "auroc": float(auroc),
            "flagged": float((score > 1).mean()),
        }
    return {"flag": measured}


def unfamiliar(xrays, data, data_dir):
    """Names and prepared images uint8 [N,S,S,1] of what the run has not been trained on."""
    rng = np.random.default_rng(0)
    noise = rng.permuted(xrays.reshape(len(xrays), -1), axis=1)
    yield "noise of the same histogram", noise.reshape(xrays.shape)
    yield "negative", 255 - xrays
    yield "turned by 90 degrees", np.rot90(xrays, axes=(1, 2))
    yield "upside down", xrays[:, ::-1]
    yield "mirrored", xrays[:, :, ::-1]
    how = {key: data.get(key, "squash") for key in ("size", "equalize", "aspect")}
    with np.load(Path(data_dir) / "mnist" / "mnist.npz") as mnist:
        digits = mnist["x_test"][:DIGITS].astype(np.float32) / 255
    yield "MNIST digits", np.stack([images.prepare(digit, *how.values()) for digit in digits])
    hospitals = records.load("nlm_tb", data_dir, **how)
    for site in np.unique(hospitals.site):
        yield site, hospitals.image[hospitals.site == site]


def maps(run, task):
    """How often the peak lies in the heart, of the test images that are called cardiomegaly."""
    data = run.config["data"]
    options = {"images": 4000, "seed": 0, "site": "both", **data["options"]}
    place = {row.path: i for i, row in enumerate(phantom.index(None, **options).rows)}
    shadows = np.stack(
        [
            shadow(options["seed"], place[path], data["size"], options["site"])
            for path in task.records.path[task.test]
        ]
    )

    def both(x):
        gradient, a = explain.gradients(run.method, run.state, x)
        averaged = gradient.mean((1, 2), keepdims=True)
        return [jax.nn.relu((g * a).sum(-1)) for g in (gradient, averaged)]

    found = metrics.batched(jax.jit(both), task.records.image[task.test])
    probability = inference.predictor(run)(task.records.image[task.test]).probability
    called = metrics.decide(probability, run.calibration.threshold()) == 1
    measured = {"n": int(called.sum()), "heart": float(shadows[called].mean())}
    for name, heat in zip(("hirescam", "gradcam"), found, strict=True):
        large = np.stack([explain.enlarge(one, data["size"]) for one in heat])
        peak = large.reshape(len(large), -1).argmax(1)
        inside = shadows.reshape(len(shadows), -1)[np.arange(len(peak)), peak]
        measured[name] = {"in_heart": float(inside[called].mean())}
    return {"maps": measured}


def shadow(seed, index, size, site):
    """[size,size] where the beam of this picture passes the heart; the frame of `expose`."""
    patient, view, _ = anatomy.describe(seed, index, site)
    part = (np.arange(size) + 0.5) / size
    u, v = (part - 0.5) * view.field + view.x, (part - 0.5)[:, None] * view.field + view.y
    cos, sin = np.cos(view.roll), np.sin(view.roll)
    x, y = u * cos + v * sin, (v * cos - u * sin) / patient.height
    return sum(part.chord(x, y) for part in anatomy.heart(patient, view)) > 0


if __name__ == "__main__":
    rows.run(main, "trust", __doc__)
