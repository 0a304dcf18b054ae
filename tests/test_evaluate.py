"""The metrics against scikit-learn, the intervals against what they promise, the odd inputs."""

import csv
import time
import warnings

import jax
import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import metrics
from ssl_gan_jax.report import predictions


def scored(rng, n, classes=2, levels=None, signal=1.0):
    """Labels and probabilities that know something of them; `levels` rounds them into ties."""
    label = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), label] += signal
    probs = softmax(logits, axis=1)
    if levels and classes == 2:
        positive = np.round(probs[:, 1] * levels) / levels
        probs = np.stack([1 - positive, positive], axis=1)
    return probs, label


def reference(probs, label, threshold, weight):
    """The seven metrics of two classes, by scikit-learn; ECE by its definition, bin by bin."""
    decision = probs[:, 1] >= threshold
    weighted = {"sample_weight": weight}
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == label
    ece = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        ece += abs(np.sum((weight * (confidence - right))[inside])) / weight.sum()
    return {
        "accuracy": sk.accuracy_score(label, decision, **weighted),
        "balanced_accuracy": sk.balanced_accuracy_score(label, decision, **weighted),
        "auroc": sk.roc_auc_score(label, probs[:, 1], **weighted),
        "auprc": sk.average_precision_score(label, probs[:, 1], **weighted),
        "sensitivity": sk.recall_score(label, decision, **weighted),
        "specificity": sk.recall_score(label, decision, pos_label=0, **weighted),
        "ece": ece,
    }


@pytest.mark.parametrize("levels", [None, 4, 20])
@pytest.mark.parametrize("seed", range(4))
def test_weighted_metrics_are_those_of_sklearn_ties_included(levels, seed):
    rng = np.random.default_rng(seed)
    probs, label = scored(rng, 90, levels=levels)
    weight = np.stack([np.ones(90), rng.integers(0, 4, size=90)]).astype(float)
    weight[1, :2] = 1  # both classes stay
    ours = metrics.weighted_metrics(probs, label, 0.4, weight)
    for row in range(2):
        theirs = reference(probs, label, 0.4, weight[row])
        assert {name: value[row] for name, value in ours.items()} == pytest.approx(theirs)


def test_an_integer_weight_means_the_image_that_many_times():
    rng = np.random.default_rng(0)
    probs, label = scored(rng, 60, classes=3)
    times = rng.integers(0, 3, size=60)
    weighted = metrics.weighted_metrics(probs, label, 0.5, times[None].astype(float))
    repeated = metrics.scores(probs.repeat(times, axis=0), label.repeat(times))
    for name in ("accuracy", "balanced_accuracy", "auroc", "auprc", "ece"):
        assert weighted[name][0] == pytest.approx(repeated[name])


def test_more_than_two_classes_are_macro_averages():
    probs, label = scored(np.random.default_rng(1), 200, classes=4)
    got = metrics.scores(probs, label, threshold=0.9)
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(label, probs, multi_class="ovr"))
    assert got["auprc"] == pytest.approx(sk.average_precision_score(np.eye(4)[label], probs))
    assert got["accuracy"] == pytest.approx(np.mean(probs.argmax(axis=1) == label))
    assert got["threshold"] is got["sensitivity"] is got["specificity"] is None


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_only_leaves_auroc_undefined(only):
    probs = np.array([[0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = metrics.report(probs, np.full(3, only), np.arange(3), 0.5)
    assert got["auroc"] == got["auprc"] == {"value": None, "low": None, "high": None}
    share = [1 / 3, 2 / 3][only]
    assert got["accuracy"]["value"] == got["balanced_accuracy"]["value"] == pytest.approx(share)
    assert got[["specificity", "sensitivity"][only]]["value"] == pytest.approx(share)
    assert got[["sensitivity", "specificity"][only]]["value"] is None


def test_no_images_at_all():
    got = metrics.report(np.zeros((0, 2)), np.zeros(0), [], 0.5)
    assert got["n"] == got["patients"] == 0 and got["accuracy"]["value"] is None


def test_unlabelled_images_and_nan_are_refused():
    with pytest.raises(ValueError, match="labels must be in 0..1"):
        metrics.scores(np.full((2, 2), 0.5), np.array([0, -1]))
    with pytest.raises(ValueError, match="finite"):
        metrics.scores(np.full((2, 2), np.nan), np.array([0, 1]))


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_maximises_youdens_j(seed):
    probs, label = scored(np.random.default_rng(seed), 40, levels=[None, 7][seed % 2])

    def youden(t):
        called = probs[:, 1] >= t
        return called[label == 1].mean() - called[label == 0].mean()

    chosen = metrics.choose_threshold(probs, label)
    every = np.concatenate([probs[:, 1], probs[:, 1] + 1e-9, [0, 1.1]])
    assert youden(chosen) == pytest.approx(max(youden(t) for t in every))
    assert np.abs(probs[:, 1] - chosen).min() > 1e-6  # between scores, not on one


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken():
    positive = np.array([0.1, 0.3, 0.4, 0.9])
    probs = np.stack([1 - positive, positive], axis=1)
    assert metrics.choose_threshold(probs, np.array([0, 1, 0, 1])) == pytest.approx(0.65)
    assert metrics.choose_threshold(probs, np.array([0, 0, 1, 1])) == pytest.approx(0.35)
    assert metrics.choose_threshold(probs, np.array([1, 1, 1, 1])) == 0.5
    assert metrics.choose_threshold(probs[:0], np.array([])) == 0.5


def test_the_threshold_separates_adjacent_floats():
    low = 0.3
    positive = np.array([low, np.nextafter(low, 1)])
    probs = np.stack([1 - positive, positive], axis=1)
    label = np.array([0, 1])
    got = metrics.scores(probs, label, metrics.choose_threshold(probs, label))
    assert got["accuracy"] == 1.0


def test_test_data_cannot_move_the_threshold_or_the_decisions():
    rng = np.random.default_rng(3)
    threshold = metrics.choose_threshold(*scored(rng, 50))
    probs, label = scored(rng, 50)
    assert metrics.report(probs, label, np.arange(50), threshold)["threshold"] == threshold
    assert metrics.report(probs, 1 - label, np.arange(50), threshold)["threshold"] == threshold


def test_many_images_of_one_patient_widen_the_interval():
    probs, label = scored(np.random.default_rng(4), 60)
    patient = np.arange(60)
    many = metrics.bootstrap_intervals(probs.repeat(10, 0), label.repeat(10), patient.repeat(10))
    naive = metrics.bootstrap_intervals(probs.repeat(10, 0), label.repeat(10), np.arange(600))
    single = metrics.bootstrap_intervals(probs, label, patient)
    for name in metrics.METRICS:
        # Ten identical images tell no more than one: same draws, same interval.
        assert many[name] == pytest.approx(single[name])
        if name != "ece":
            assert np.diff(many[name]) > 2 * np.diff(naive[name])


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(5)
    truth = metrics.scores(*scored(rng, 200_000))
    covered = dict.fromkeys(("accuracy", "auroc", "sensitivity"), 0)
    for seed in range(150):
        probs, label = scored(rng, 120)
        spans = metrics.bootstrap_intervals(probs, label, np.arange(120), replicates=300, seed=seed)
        for name in covered:
            covered[name] += spans[name][0] <= truth[name] <= spans[name][1]
    assert all(0.88 <= hits / 150 <= 0.99 for hits in covered.values()), covered


def test_intervals_do_not_depend_on_the_order_or_the_names_of_patients_alone():
    probs, label = scored(np.random.default_rng(6), 80)
    patient = np.arange(80) // 2
    first = metrics.bootstrap_intervals(probs, label, patient, seed=1)
    assert first == metrics.bootstrap_intervals(probs, label, [f"{p:03d}" for p in patient], seed=1)
    assert first != metrics.bootstrap_intervals(probs, label, patient, seed=2)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("classes", [2, 3])
def test_replicates_without_a_class_are_left_out_of_what_needs_it(classes):
    """The same replicates, drawn and scored one by one: by scikit-learn where all classes are."""
    probs, label = scored(np.random.default_rng(7), 30, classes)
    label[classes:] = 0  # one image of each other class: many replicates miss it
    rng, found = np.random.default_rng(0), {"auroc": [], "balanced_accuracy": [], "accuracy": []}
    for _ in range(200):
        rows = rng.integers(30, size=30)
        p, y = probs[rows], label[rows]
        called = p.argmax(axis=1)
        found["accuracy"].append(np.mean(y == called))
        if len(set(y)) == len(set(label)):
            found["balanced_accuracy"].append(sk.balanced_accuracy_score(y, called))
        if len(set(y)) == classes:
            score = p[:, 1] if classes == 2 else p
            found["auroc"].append(sk.roc_auc_score(y, score, multi_class="ovr"))
    spans = metrics.bootstrap_intervals(probs, label, np.arange(30), replicates=200)
    assert len(found["balanced_accuracy"]) < 160
    for name, values in found.items():
        assert spans[name] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


CURVES = [  # strictly increasing, also where doubles have few digits left
    lambda x: 1e-9 * x,
    lambda x: 38 + x / 1e3,
    lambda x: 70 * x,
    lambda x: 1e6 * x,
    lambda x: 1e300 * x,
    np.arctan,
    np.sinh,
]


@pytest.mark.parametrize("bend", CURVES)
@given(st.lists(st.tuples(st.integers(-99, 99), st.booleans()), min_size=2, max_size=30))
def test_ranks_outlive_any_increasing_transform_of_the_logits(bend, images):
    gap, label = np.array([x for x, _ in images]) / 10, np.array([int(y) for _, y in images])

    def areas(gap):
        logits = np.stack([-gap / 2, gap / 2], axis=1)
        got = metrics.scores(softmax(logits, axis=1), label, logits=logits)
        return got["auroc"], got["auprc"]

    assert areas(bend(gap)) == areas(gap)


def test_saturated_probabilities_still_rank_and_so_do_those_of_the_file(tmp_path):
    gap = np.linspace(38, 70, 40)  # all of them round to 1
    probs, label = softmax(np.stack([0 * gap, gap], axis=1), axis=1), (gap > 54).astype(int)
    assert set(probs[:, 1]) == {1.0}
    assert metrics.report(probs, label, np.arange(40))["auroc"]["value"] == 1
    assert metrics.scores(probs[:, ::-1], 1 - label)["auprc"] == 1
    path = tmp_path / "predictions.csv"
    metrics.write_predictions(path, ["x"] * 40, label, probs, ["well", "ill"])
    back = predictions.read(tmp_path)
    assert metrics.scores(back.probs, back.label)["auroc"] == 1
    assert np.trapezoid(*predictions.roc(back)[::-1]) == 1


def test_at_a_half_needs_no_threshold_of_validation():
    probs, label = scored(np.random.default_rng(2), 80)
    got, half = (metrics.report(probs, label, np.arange(80), t) for t in (0.9, 0.5))
    for name in ("accuracy", "sensitivity", "specificity"):
        assert got[f"{name}_at_half"] == half[f"{name}_at_half"] == half[name] != got[name]
    assert "accuracy_at_half" not in metrics.report(
        *scored(np.random.default_rng(2), 9, 3), range(9)
    )


def test_one_patient_has_no_interval():
    probs, label = scored(np.random.default_rng(8), 30)
    spans = metrics.bootstrap_intervals(probs, label, np.zeros(30))
    assert set(spans.values()) == {(None, None)}


def test_the_bootstrap_is_quick():
    probs, label = scored(np.random.default_rng(9), 624)
    start = time.monotonic()
    metrics.bootstrap_intervals(probs, label, np.arange(624))
    assert time.monotonic() - start < 10  # .05 s on an idle machine


@pytest.mark.parametrize("n", [0, 1, 4, 10])
def test_logits_count_each_image_once_and_compiles_once(n):
    compiled = []

    @jax.jit
    def logits(images):
        compiled.append(images.shape)
        mean = images.mean(axis=(1, 2, 3))
        return jax.numpy.stack([mean, -mean, 0 * mean], axis=1)

    images = np.random.default_rng(0).integers(0, 256, size=(n, 5, 6, 1), dtype=np.uint8)
    got = metrics.logits_of(logits, images, 4)
    mean = (images / 127.5 - 1).mean(axis=(1, 2, 3))
    assert compiled == [(4, 5, 6, 1)]
    assert got.shape == (n, 3) and got.dtype == np.float64
    np.testing.assert_allclose(got, np.stack([mean, -mean, 0 * mean], axis=1), atol=1e-5)


def test_logits_are_refused_of_weights_that_diverged():
    images = np.zeros((3, 2, 2, 1), np.uint8)
    with pytest.raises(UserError, match="3 of 3 images are not finite"):
        metrics.logits_of(lambda x: np.full((len(x), 2), np.nan), images, 2)


def test_predictions_escape_formulas_and_keep_every_digit(tmp_path):
    names = ["a.png", "=HYPERLINK(1)", "+1", "-1", "@x", "\tq", "\rq", 'b,"c"\n.png']
    probs, _ = scored(np.random.default_rng(0), len(names))
    label = [0, 1, -1, 0, 1, 0, 1, 1]
    path = tmp_path / "new" / "predictions.csv"
    metrics.write_predictions(path, names, label, probs, ["=normal", "pneumonia"], 0.3)
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "label", "p_=normal", "p_pneumonia", "decision"]
    cells = [row[0] for row in rows[1:]]
    assert cells == ["a.png", *("'" + name for name in names[1:6]), "' q", names[7]]
    assert [row[1] for row in rows[1:4]] == ["'=normal", "pneumonia", ""]
    assert [[float(p) for p in row[2:4]] for row in rows[1:]] == probs.tolist()
    assert [row[4] == "pneumonia" for row in rows[1:]] == (probs[:, 1] >= 0.3).tolist()
    assert [p.name for p in path.parent.iterdir()] == ["predictions.csv"]


def test_predictions_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="argument"):
        metrics.write_predictions(path, ["a"], [0, 1], np.full((2, 2), 0.5), ["x", "y"])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
