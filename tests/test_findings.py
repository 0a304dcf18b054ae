"""Scores, calibration and a whole run of images with several findings."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from ssl_gan_jax import inference, train
from ssl_gan_jax.commands import adapt, export
from ssl_gan_jax.commands import calibration as calibration_command
from ssl_gan_jax.commands import predict as predict_command
from ssl_gan_jax.config import base
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import calibration, explain, findings, metrics
from ssl_gan_jax.report import predictions
from ssl_gan_jax.report.card import write_card
from ssl_gan_jax.targets import FINDINGS

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(80, 3)) * 2
LABEL = (LOGITS + RNG.normal(size=(80, 3)) * 2 > 0).astype(int)
LABEL[RNG.random((80, 3)) < 0.2] = -1
PROBS = expit(LOGITS)
PATIENT = np.array([f"p{i // 2}" for i in range(80)])


def test_one_finding_known_in_all_images_is_scored_as_two_classes():
    logits, label = LOGITS[:, :1], np.maximum(LABEL[:, :1], 0)
    two = np.hstack([1 - PROBS[:, :1], PROBS[:, :1]])
    expected = metrics.report(two, label[:, 0], PATIENT, 0.4, logits=findings.pairs(logits[:, 0]))
    got = metrics.report(PROBS[:, :1], label, PATIENT, 0.4, logits=logits)
    assert got["findings"] == [expected | {"present": int(label.sum())}]
    assert all(got[name] == expected[name] for name in metrics.METRICS)
    chosen = metrics.choose_threshold(PROBS[:, :1], label)
    assert chosen.tolist() == [metrics.choose_threshold(two, label[:, 0])]
    fitted = calibration.fit(logits, label, PATIENT, None)
    alone = calibration.fit(findings.pairs(logits[:, 0]), label[:, 0], PATIENT, None)
    assert fitted.scale.tolist() == [np.float32(alone.temperature)]
    for point in calibration.POINTS:
        assert fitted.threshold(point).tolist() == [alone.threshold(point)]


def test_means_are_over_the_findings_that_images_both_show_and_lack():
    label = LABEL.copy()
    label[:, 1] = np.minimum(label[:, 1], 0)  # never present
    got = metrics.report(PROBS, label, PATIENT, np.array([0.3, 0.5, 0.7]), logits=LOGITS)
    known = label >= 0
    auroc = [roc_auc_score(label[known[:, k], k], LOGITS[known[:, k], k]) for k in (0, 2)]
    np.testing.assert_allclose(got["auroc"]["value"], np.mean(auroc))
    each = [got["findings"][k]["accuracy"]["value"] for k in (0, 2)]
    np.testing.assert_allclose(got["accuracy"]["value"], np.mean(each))
    assert got["auroc"]["low"] < got["auroc"]["value"] < got["auroc"]["high"]
    assert got["findings_scored"] == 2 and got["findings"][1]["auroc"]["value"] is None
    assert [f["n"] for f in got["findings"]] == known.sum(0).tolist()
    assert [f["threshold"] for f in got["findings"]] == [0.3, 0.5, 0.7]
    json.dumps(got, allow_nan=False)
    hidden = np.where(known, 0, 1) * 0.9 + PROBS * known  # other scores where nothing is known
    again = metrics.report(hidden, label, PATIENT, np.array([0.3, 0.5, 0.7]))
    assert [f["accuracy"] for f in again["findings"]] == [f["accuracy"] for f in got["findings"]]


def test_a_finding_without_labels_has_no_scores_and_breaks_nothing():
    label = LABEL.copy()
    label[:, 0] = -1
    got = metrics.report(PROBS, label, PATIENT)
    assert got["findings"][0]["n"] == 0 and got["findings_scored"] == 2
    fitted = calibration.fit(LOGITS, label, PATIENT, None)
    assert fitted.scale[0] == 1 and fitted.threshold("sensitivity=.9")[0] == 0.5
    assert metrics.choose_threshold(PROBS, label)[0] == 0.5
    nothing = metrics.scores(PROBS, np.full_like(label, -1))
    assert nothing["n"] == 0 and nothing["auroc"] is None
    json.dumps(nothing | fitted.as_json(), allow_nan=False)


def test_probabilities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="expected probs and label"):
        metrics.scores(PROBS[:, :2], LABEL)
    with pytest.raises(ValueError, match="not all finite"):
        metrics.scores(PROBS * np.nan, LABEL)


def test_calibration_is_stored_and_lowers_the_error(tmp_path):
    fitted = calibration.fit(LOGITS * 5, LABEL, PATIENT, None)
    assert fitted.validation["ece"] < fitted.validation["ece_before"]
    calibration.save(tmp_path, fitted)
    loaded = calibration.load(tmp_path)
    assert (loaded.scale == fitted.scale).all() and loaded.scale.dtype == np.float32
    assert (loaded.threshold() == fitted.threshold()).all()
    # A threshold is tempered with its finding, so decisions stay as they were.
    raw = metrics.choose_threshold(expit(LOGITS * 5), LABEL)
    tempered = FINDINGS.probability(LOGITS * 5 / fitted.scale)
    assert ((tempered >= fitted.threshold()) == (expit(LOGITS * 5) >= raw)).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of `ssl_gan`: a white left or right half is a finding."""
    folder = tmp_path_factory.mktemp("films")
    rng, lines = np.random.default_rng(0), ["path,left,right,rare,sex"]
    for i in range(120):
        shown, known = rng.random(2) < 0.5, rng.random(2) < 0.8
        pixels = rng.integers(0, 120, (16, 16))
        pixels[:, :8] += 120 * shown[0]
        pixels[:, 8:] += 120 * shown[1]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")
        cells = ["" if not k else str(int(s)) for s, k in zip(shown, known, strict=True)]
        lines.append(f"{i:03d}.png,{','.join(cells)},0,{'FM'[i % 2]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    config = base("ssl_gan", data="folder", size=16)
    config.data.update(dir=str(folder), cache_dir=str(folder / "cache"), val=0.3, test=0.3)
    config.data.options = {"findings": "all"}
    config.data.images = 20
    config.method.update(width=4, reference_size=4)
    config.train.update(steps=30, batch_size=8, evaluate_every=15, sample_every=30)
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train.run(config, workdir), folder


def test_a_run_tests_calibrates_and_describes_every_finding(run):
    workdir, result, _ = run
    assert result["target"] == "findings" and result["classes"] == ["left", "right", "rare"]
    assert result["labelled"] == 20 and result["splits"]["labelled"]["classes"]["rare"] == 0
    test = result["test"]
    assert test["findings_scored"] == 2 and len(test["findings"]) == 3
    assert test["auroc"]["value"] > 0.5 and "sex F" in result["test_by_group"]
    with open(workdir / "predictions.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", *(f"{a}_{k}" for a in ("label", "p") for k in result["classes"]),
                    "decision"]  # fmt: skip
    assert {row[1] for row in rows} == {"0", "1", ""}
    label = np.array([[-1 if x == "" else int(x) for x in row[1:4]] for row in rows])
    probs = np.array([row[4:7] for row in rows], float)
    ours = metrics.scores(probs, label)["auroc"]
    np.testing.assert_allclose(ours, test["auroc"]["value"], atol=1e-6)
    assert predictions.read(workdir) is None  # the report draws it for classes
    card = (workdir / "MODEL_CARD.md").read_text()
    assert "| rare |" in card and "in test 2 of 3" in card
    write_card(workdir, *inference.read(workdir))
    assert (workdir / "MODEL_CARD.md").read_text() == card


def test_an_exported_model_has_the_probabilities_of_predict(run):
    workdir, result, _ = run
    opened = inference.open_run(workdir)
    images = RNG.integers(0, 256, (3, 16, 16, 1)).astype(np.uint8)
    expected = inference.predictor(opened)(images).probability
    got, _ = export.portable(opened)(to_float(images))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    about = export.preprocessing(opened)
    assert np.shape(about["threshold"]) == np.shape(about["temperature"]) == (3,)
    assert about["operating_points"]["balanced"] == [0.5] * 3
    assert about["decision"] == "each finding whose probability >= its threshold"
    json.dumps(about)


def test_calibration_is_made_again_as_training_made_it(run):
    workdir = run[0]
    before = (workdir / "calibration.json").read_bytes()
    calibration_command.main(calibration_command.PARSER.parse_args([f"--workdir={workdir}"]))
    assert (workdir / "calibration.json").read_bytes() == before


def test_a_method_without_such_a_loss_is_refused_before_images_are_prepared(tmp_path):
    config = base("mixmatch", data="phantom", size=16)
    config.data.update(cache_dir=str(tmp_path / "cache"))
    config.data.options = {"images": 40, "findings": "all"}
    with pytest.raises(UserError, match="mixmatch cannot learn several findings"):
        train.run(config, tmp_path / "run")
    assert not list(tmp_path.glob("cache/phantom/*")) and not (tmp_path / "run").exists()


def test_predict_has_a_column_for_each_finding(run, tmp_path):
    workdir, result, folder = run
    out = tmp_path / "predictions.csv"
    args = [f"--workdir={workdir}", str(folder / "000.png"), f"--out={out}", "--explain"]
    parsed = predict_command.PARSER.parse_args([*args, str(tmp_path / "overlays")])
    assert predict_command.main(parsed) == 0
    with open(out, newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["path", "p_left", "p_right", "p_rare", "decision", "ood_score", "ood"]
    opened = inference.open_run(workdir)
    assert opened.target is FINDINGS
    names = set(row["decision"].split("|")) - {"none"}
    threshold = opened.calibration.threshold()
    assert names == {
        k for k, t in zip(result["classes"], threshold, strict=True) if float(row[f"p_{k}"]) >= t
    }
    assert len(list((tmp_path / "overlays").iterdir())) == 1


def test_the_evidence_for_each_finding_can_be_drawn(run):
    opened = inference.open_run(run[0])
    images = RNG.integers(0, 256, (6, 16, 16, 1)).astype(np.uint8)
    heat = {name: explain.explainer(opened, name)(images) for name in opened.classes}
    assert not np.allclose(heat["left"], heat["right"], rtol=0.1)
    logits, _ = opened.method.classify(opened.state, to_float(images))
    drawn = explain.explainer(opened)(images)
    for i, k in enumerate(logits.argmax(1)):  # the likeliest before calibration
        np.testing.assert_allclose(drawn[i], heat[opened.classes[k]][i], rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match="to explain: no 'top' among left, rare, right"):
        explain.explainer(opened, "top")


def test_adaptation_and_another_prevalence_are_for_classes(run, tmp_path):
    workdir, _, folder = run
    image = str(folder / "000.png")
    for changes in (["--prevalence=.2"], ["--adapt_threshold"]):
        args = [f"--workdir={workdir}", image, f"--out={tmp_path / 'p.csv'}", *changes]
        args.append(f"--explain={tmp_path / 'overlays'}")
        with pytest.raises(UserError, match="several findings"):
            predict_command.main(predict_command.PARSER.parse_args(args))
    args = adapt.PARSER.parse_args([f"--workdir={workdir}", image, f"--out={tmp_path / 'run'}"])
    with pytest.raises(UserError, match="several findings"):
        adapt.main(args)
    assert not list(tmp_path.iterdir())
