"""The result of a finished run: scores, calibration, samples, predictions and model card."""

import functools
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_gan_jax import processes, targets
from ssl_gan_jax.data.dataset import Dataset, rows_to_adapt_to
from ssl_gan_jax.evaluation import calibration, generated, groups, metrics
from ssl_gan_jax.files import write_json
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.training.run import TrainingRun
from ssl_gan_jax.types import Array, TrainState

FIT = 1000  # training images that fit the OOD detector; more change little


def finish(run: TrainingRun, state: TrainState) -> dict[str, Any]:
    """Tests the best state of `run`, whose last state is `state`; writes result.json and the card.

    A run with a result.json is finished.
    """
    config, dataset = run.config, run.dataset
    result = {
        "method": config.method.name,
        "data": config.data.name,
        "labels_per_class": config.data.labels_per_class or None,
        "images": config.data.images or None,
        "labelled": len(dataset.labeled) if run.compiled.classify else 0,
        "unlabelled": len(dataset.unlabeled) if run.uses_unlabeled else 0,
        "size": config.data.size,
        "seed": config.train.seed,
        "steps": run.steps,
        "target": targets.of(dataset.records.label).name,
        "classes": list(run.classes),
        "splits": groups.splits(dataset),
        **final_scores(run, state),
        "fingerprint": run.meta["data"],
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "replicas": run.replicas,
        "wall_s": round(run.wall_s(), 1),
        **run.about,
    }
    processes.wait()  # until all processes have finished
    if processes.is_first():
        from ssl_gan_jax.report.card import write_card  # here: a start does not wait for figures

        write_json(run.workdir / "result.json", result)
        write_card(run.workdir, config.to_dict(), result)
    return result


def final_scores(run: TrainingRun, state: TrainState) -> dict[str, Any]:
    """The best state's scores of validation, test and generated images.

    Writes calibration.*, which `predict` needs, and predictions.csv of the test images. If
    `train.test_at_end` is off, as for tuning, the test images are not used.
    """
    best, dataset, records = run.meta["best"], run.dataset, run.dataset.records
    result = {"best_step": int(state.step), "test": None, "validation": None, "samples": None}
    if best and best["step"] != int(state.step):
        result["best_step"] = best["step"]
        state, _ = checkpoint.restore_step(run.checkpoints, best["step"], run.abstract_state)
    if run.compiled.generate:
        rows = generator_rows(dataset, run.config, bool(run.compiled.classify))
        result["samples"] = generated.memorisation(
            np.asarray(run.samples(state)),
            records.image[rows],
            records.image[dataset.val],
            **generated.shift_and_flip(run.config.method),
        )
    if not run.compiled.classify:
        return result
    threshold = 0.5
    if len(rows := dataset.val):
        fitted, logits = fit_calibration(run.compiled.classify, state, dataset)
        target, label = targets.of(records.label), records.label[rows]
        probs = target.probability(logits)
        if target.has_threshold(len(run.classes)):
            threshold = metrics.choose_threshold(probs, label)
        result["validation"] = metrics.report(
            probs, label, records.patient[rows], threshold, logits=logits
        )
        if processes.is_first():
            calibration.save(run.workdir, fitted)
    if run.config.train.test_at_end:
        _, logits = run.predict(state, dataset.test)
        path = run.workdir / "predictions.csv" if processes.is_first() else None
        result |= test_scores(dataset, logits, threshold, path)
        to_adapt = rows_to_adapt_to(records, run.config.data)
        of_classes = targets.of(records.label) is targets.CLASSES
        if of_classes and result["test"] and len(dataset.val) and len(to_adapt):
            result["new_prior"], result["test"]["accuracy_label_free"] = label_free(
                functools.partial(run.compiled.classify, state), fitted, dataset, to_adapt, logits
            )
    return result


def test_scores(
    dataset: Dataset, logits: np.ndarray, threshold: float | np.ndarray, path: Path | None
) -> dict[str, Any]:
    """The scores of the test images, all and in groups, for the result.

    `logits` [T,K] are theirs. Writes their predictions to the file `path`, if one is given.
    """
    records, rows = dataset.records, dataset.test
    label, probs = records.label[rows], targets.of(records.label).probability(logits)
    result = {"test": None, "test_by_group": groups.by_group(probs, records, rows, threshold)}
    if len(rows):
        result["test"] = metrics.report(
            probs, label, records.patient[rows], threshold, logits=logits
        )
    if path:
        metrics.write_predictions(
            path, records.path[rows], label, probs, records.classes, threshold
        )
    return result


def fit_calibration(
    classify: Callable[[TrainState, Array], tuple[Array, Array]],
    state: TrainState,
    dataset: Dataset,
) -> tuple[calibration.Calibration, np.ndarray]:
    """The calibration that the validation images (at least one) give, and their logits [V,K].

    The OOD detector is fitted to 4/5 of the training images from the sites that the validation
    images come from. The others of them and the validation images set the detector's limit.
    `classify` is a method's, jitted.
    """
    compiled = functools.partial(classify, state)
    image, site = dataset.records.image, dataset.records.site
    rows = np.union1d(dataset.labeled, dataset.unlabeled)
    validated = np.isin(site[rows], site[dataset.val])
    of_other_sites, rows = int((~validated).sum()), rows[validated]
    if len(rows) > FIT:
        rows = np.sort(np.random.default_rng(0).choice(rows, FIT, replace=False))
    logits, features = metrics.batched(compiled, image[dataset.val])
    _, train_features = metrics.batched(compiled, image[rows])
    held_out = np.arange(len(rows)) % 5 == 4
    ood_detector = None
    if len(rows) >= 5:
        ood_detector = calibration.fit_ood_detector(
            train_features[~held_out], np.concatenate([train_features[held_out], features])
        )
    label, patient = dataset.records.label[dataset.val], dataset.records.patient[dataset.val]
    fitted = calibration.fit(logits, label, patient, ood_detector)
    if of_other_sites:  # which the features know by now
        fitted = fitted._replace(validation={**fitted.validation, "other_sites": of_other_sites})
    return fitted, logits


def label_free(
    classify: Callable[[Array], tuple[Array, Array]],
    fitted: calibration.Calibration,
    dataset: Dataset,
    new: np.ndarray,
    logits: np.ndarray,
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """The prior of another site's images, and the accuracy of its test images there.

    As `predict --adapt_threshold --operating_point=balanced`: EM estimates the prior from the
    site's other images, rows `new`, without a label. Its threshold is .5 on probabilities at that
    prior, or on those of training where the estimate is refused. `logits` [T,K] of test images.
    """
    from ssl_gan_jax.evaluation.new_prior import new_prior  # here: scipy.stats is slow to import

    records, rows = dataset.records, dataset.test
    count = np.bincount(records.label[dataset.labeled], minlength=len(records.classes))
    new_logits, features = metrics.batched(classify, records.image[new])
    detector = fitted.ood_detector
    ood = detector.score(features) if detector else np.full(len(new), np.nan)
    probs = calibration.tempered(new_logits, fitted.temperature)
    found = new_prior(count / count.sum(), fitted, records.classes, probs, ood, "balanced")
    corrected = found.corrected(calibration.tempered(logits, fitted.temperature))
    label, patient = records.label[rows], records.patient[rows]
    low, high = metrics.bootstrap_intervals(corrected, label, patient)["accuracy"]
    accuracy = {"value": metrics.scores(corrected, label)["accuracy"], "low": low, "high": high}
    about = {"line": found.line, "refused": found.refused, "prior": found.prior.tolist()}
    return about, accuracy


def generator_rows(dataset: Dataset, config: Mapping[str, Any], labels: bool) -> np.ndarray:
    """Rows of the images that G was trained on, and could copy.

    `labels`: whether the method uses labels. A method without labels trains on all images.
    """
    if labels and not config["train"]["unlabeled_batch_size"]:
        return dataset.labeled
    if labels and config.get("data", {}).get("adapt") == "target":  # else `unlabeled` holds both
        return np.union1d(dataset.labeled, dataset.unlabeled)
    return dataset.unlabeled
