"""`predict --prevalence` and `--adapt_threshold`: what they say, use and refuse."""

import csv

import numpy as np
import pytest
from PIL import Image
from test_prior_shift import HALF, points, scored
from test_train import small

from ssl_gan_jax import train
from ssl_gan_jax.commands import predict
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import prior_shift
from ssl_gan_jax.evaluation.calibration import Calibration
from ssl_gan_jax.evaluation.new_prior import new_prior


def fitted_on(validated=600, classes=2):
    stored = points(*scored(600, 0.7)) if classes == 2 else {}
    return Calibration(1.0, stored, None, {"n": validated} if validated else {})


def ood_of(probs, far=0):
    return np.where(np.arange(len(probs)) < far, 3.0, 0.5)


def prior_of(probs, point, prevalence=None, *, far=0, fitted=None):
    fitted = fitted or fitted_on()
    return new_prior(HALF, fitted, ("well", "ill"), probs, ood_of(probs, far), point, prevalence)


def test_em_moves_the_threshold_and_makes_fewer_errors():
    probs, label = scored(2000, 0.05, seed=3)
    new, fitted = prior_of(probs, "youden"), fitted_on()
    assert not new.refused and new.line.startswith("prior by EM: ill 0.0")
    assert f"positive from {new.threshold:.3f} on" in new.line
    before = np.mean((probs[:, 1] >= fitted.threshold()) != label)
    after = np.mean((new.corrected(probs)[:, 1] >= new.threshold) != label)
    assert after < before / 2
    for point in ("sensitivity=.95", "specificity=.9"):
        new = prior_of(probs, point)
        kept = new.corrected(probs)[:, 1] >= new.threshold
        assert (kept == (probs[:, 1] >= fitted.threshold(point))).mean() > 0.999
    assert prior_of(probs, "balanced").threshold == 0.5


def test_a_given_prior_is_used_and_a_doubt_named():
    probs, _ = scored(500, 0.2)
    new = prior_of(probs, "youden", 0.2)
    assert new.line.startswith("prior as given: ill 0.2 (labels: 0.500)") and not new.refused
    there = prior_shift.corrected(probs, HALF, np.array([0.8, 0.2]))
    np.testing.assert_allclose(new.corrected(probs), there)
    new = prior_of(probs, "youden", 0.2, far=50)
    assert new.line.startswith("warning: prior as given") and not new.refused
    assert "10.0% of the images are out of distribution" in new.line
    np.testing.assert_allclose(new.corrected(probs), there)


@pytest.mark.parametrize(
    ("n", "far", "validated", "others", "why"),
    [
        (500, 50, 600, 0, "out of distribution"),
        (500, 0, 0, 0, "no calibration"),
        (500, 0, 600, 9, "another site without labels"),
        (3, 0, 600, 0, "too few images"),
    ],
)
def test_an_estimate_that_is_not_to_be_trusted_changes_nothing(n, far, validated, others, why):
    probs, fitted = scored(n, 0.4)[0], fitted_on(validated)
    fitted = fitted._replace(validation=fitted.validation | {"other_sites": others})
    new = prior_of(probs, "youden", far=far, fitted=fitted)
    assert new.refused and new.corrected(probs) is probs
    assert new.threshold == fitted.threshold()
    assert new.line.startswith("warning: prior by EM") and why in new.line


def test_three_classes_have_an_estimate_but_no_prevalence():
    probs = np.random.default_rng(0).dirichlet([0.1, 0.3, 0.1], 900)
    known = np.full(3, 1 / 3), fitted_on(classes=3), ("a", "b", "c"), probs, ood_of(probs)
    new = new_prior(*known, "youden")
    assert all(f"{name} 0." in new.line for name in "abc") and not new.refused
    assert new.corrected(probs).mean(0)[1] > probs.mean(0)[1]
    with pytest.raises(UserError, match="for two classes"):
        new_prior(*known, "youden", 0.1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train.run(small("supervised"), folder / "run")
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20), np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    return folder


def test_the_command_says_the_prior_and_writes_what_is_at_it(finished, tmp_path, capsys):
    def call(*options):
        args = [f"--workdir={finished / 'run'}", str(finished / "images"), f"--out={tmp_path}/p"]
        code = predict.main(predict.PARSER.parse_args([*args, *options]))
        with open(tmp_path / "p", newline="") as file:
            table = list(csv.DictReader(file))
        p = np.array([[float(row[f"p_{k}"]) for k in ("normal", "cardiomegaly")] for row in table])
        return code, p, capsys.readouterr().err

    plain, at_a_tenth, refused = call(), call("--prevalence=.1"), call("--adapt_threshold")
    assert plain[0] == at_a_tenth[0] == 0 and refused[0] == 1
    there = prior_shift.corrected(plain[1], HALF, np.array([0.9, 0.1]))
    np.testing.assert_allclose(at_a_tenth[1], there)
    assert "prior" not in plain[2] and at_a_tenth[2].count("prior as given") == 1
    assert (refused[1] == plain[1]).all() and "is not used: " in refused[2]
    for wrong in (["--prevalence=1"], ["--prevalence=half"], ["--prevalence=.1", "--adapt_thresh"]):
        with pytest.raises(UserError, match="--prevalence|unrecognized|try --help"):
            call(*wrong)
    with pytest.raises(UserError, match="not allowed with"):
        call("--prevalence=.1", "--adapt_threshold")
