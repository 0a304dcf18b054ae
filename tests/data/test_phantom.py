"""Made radiographs: pure, anatomical, alike within a patient, different between the sites."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ssl_gan_jax.data import records
from ssl_gan_jax.data.sources.phantom import anatomy, findings, radiograph
from ssl_gan_jax.errors import UserError


@pytest.fixture(scope="module")
def pictures():
    """Images [N,16,16], their cardiothoracic ratios and their sites."""
    shown = [anatomy.describe(7, i, "both") for i in range(700)]
    image = np.stack([radiograph.render(seed=7, index=i, size=16) for i in range(700)])
    ratio = [anatomy.cardiothoracic_ratio(patient, view) for patient, view, _ in shown]
    return image, np.array(ratio), np.array([site for *_, site in shown])


def test_a_picture_depends_on_seed_and_index_alone():
    first = radiograph.render(3, 11, 32)
    radiograph.render(3, 12, 32)
    assert np.array_equal(first, radiograph.render(3, 11, 32))
    assert not np.array_equal(first, radiograph.render(4, 11, 32))
    assert not np.array_equal(first, radiograph.render(3, 12, 32))


@pytest.mark.parametrize("size", [16, 33, 64, 128])
def test_every_size_uses_the_full_range(size):
    image = radiograph.render(0, 5, size)
    assert image.shape == (size, size) and image.dtype == np.uint8
    assert image.min() == 0 and image.max() == 255


def test_the_ratio_is_what_one_measures_in_the_projection():
    x, y = (
        a.astype(np.float32) for a in np.meshgrid(np.arange(-20, 20, 0.02), np.arange(-14, 20, 0.1))
    )
    for index in range(6):
        patient, view, _ = anatomy.describe(0, index, "both")
        shadow = sum(part.chord(x, y) for part in anatomy.heart(patient, view)) > 0
        chest = anatomy.lungs(patient, view, x, y) > 0
        heart_width, chest_width = (np.ptp(x[mask]) for mask in (shadow, chest))
        ratio = anatomy.cardiothoracic_ratio(patient, view)
        assert ratio == pytest.approx(heart_width / chest_width, abs=0.004)


def test_an_ellipsoid_has_its_chord_and_its_volume():
    ball = anatomy.Ellipsoid(1, -2, 3, 2, 4, tilt=0.7)
    x, y = np.meshgrid(np.arange(-6, 6, 0.05), np.arange(-6, 6, 0.05))
    assert ball.chord(np.array(1.0), np.array(-2.0)) == pytest.approx(8)
    assert ball.chord(x, y).sum() * 0.05**2 == pytest.approx(4 / 3 * np.pi * 24, rel=1e-3)


def test_two_pictures_of_a_patient_share_the_anatomy_and_not_the_pose():
    assert [anatomy.locate(i) for i in range(5)] == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
    (one, pose, site), (two, other, site2), (third, _, _) = (
        anatomy.describe(0, i, "both") for i in (2, 3, 4)
    )
    assert one == two and site == site2 and pose != other and one != third


def test_the_sites_differ_in_looks_and_not_in_disease(pictures):
    image, ratio, of = pictures
    gray = image.mean((1, 2))
    assert gray[of == "B"].mean() > gray[of == "A"].mean() + 10
    assert all(0.42 < (ratio[of == site] > 0.5).mean() < 0.58 for site in "AB")
    assert {anatomy.describe(0, i, "B")[2] for i in range(4)} == {"B"}


def test_many_labels_beat_few(pictures):
    pixels, label = pictures[0].reshape(700, -1) / 255, pictures[1] > 0.5
    train, test = slice(0, 500), slice(500, 700)
    features = PCA(30, whiten=True, random_state=0).fit(pixels[train]).transform(pixels)

    def auroc(chosen):
        model = LogisticRegression(C=0.1).fit(features[chosen], label[chosen])
        return roc_auc_score(label[test], model.decision_function(features[test]))

    few = [
        auroc(np.concatenate([np.flatnonzero(label[train] == k)[10 * d :][:10] for k in (0, 1)]))
        for d in range(5)
    ]
    assert np.mean(few) < 0.75 and auroc(train) > np.mean(few) + 0.1


def test_it_loads_like_every_source(tmp_path):
    data = records.load("phantom", None, 16, cache_dir=tmp_path, images=12, seed=1, site="both")
    assert data.image.shape == (12, 16, 16, 1) and data.image.dtype == np.uint8
    assert data.classes == ("normal", "cardiomegaly")
    assert set(data.site) == {"A", "B"} and set(data.split) == {""}
    for i in range(12):
        patient, view, site = anatomy.describe(1, i, "both")
        number, take = anatomy.locate(i)
        at = data.path.tolist().index(f"{site}/P{number:05d}-{take + 1}.png")
        assert data.label[at] == (anatomy.cardiothoracic_ratio(patient, view) > 0.5)
        assert data.patient[at] == f"P{number:05d}" and data.site[at] == site
    with pytest.raises(UserError, match="no .C."):
        records.load("phantom", None, 16, cache_dir=tmp_path, site="C")


@pytest.fixture(scope="module")
def several():
    """Of 600 pictures the patients, views and labels [N,4] of their findings."""
    shown = [anatomy.describe(7, i, "A")[:2] for i in range(600)]
    return shown, np.array([findings.labels(*each) for each in shown])


def test_findings_are_independent_and_belong_to_the_patient(several):
    shown, label = several
    assert (abs(label[:, 1:].mean(0) - findings.SHARE) < 0.08).all()
    assert abs(np.corrcoef(label.T) - np.eye(4)).max() < 0.15
    assert (label.sum(1) > 1).mean() > 0.2  # they overlap
    (one, _), (two, _) = shown[2:4]  # two pictures of a patient
    assert findings.draw(one) == findings.draw(two)
    ratio = [anatomy.cardiothoracic_ratio(*each) for each in shown]
    assert (label[:, 0] == (np.array(ratio) > 0.5)).all()


def test_a_finding_changes_its_own_place_in_the_direction_of_its_physics(several):
    shown, label = several
    line = np.arange(-16, 16, 0.1)
    x, y = (a.astype(np.float32) for a in np.meshgrid(line, line))
    for k, sign in ((1, 1), (2, 1), (3, -1)):  # fluid and a nodule attenuate more, bare air less
        only = np.flatnonzero((label[:, 1:].sum(1) == 1) & (label[:, k] == 1))[:3]
        for patient, view in (shown[i] for i in only):
            found = findings.draw(patient)
            change = findings.line_integral(patient, view, x, y) - radiograph.line_integral(
                patient, view, x, y
            )
            inside = anatomy.lungs(patient, view, x, y) > 0
            assert (sign * change > -1e-4).all() and (sign * change).max() > 0.2
            assert not change[~inside].any()
            side = (found.effusion_side, found.nodule_at[0], found.pneumothorax_side)[k - 1]
            assert not change[np.sign(x) == -side].any()
            where = np.abs(change) > 0.05
            if k == 2:  # as large as a ball, or less where an organ hides some of it
                assert 0 < where.sum() * 0.01 <= np.pi * found.nodule**2 * 1.05
            else:
                assert np.median(y[where]) * sign > 0  # fluid sinks, and air rises


def test_without_findings_the_picture_is_the_same_and_with_them_another(several):
    _, label = several
    for i in np.flatnonzero(label[:, 1:].sum(1) == 0)[:2]:
        assert np.array_equal(findings.render(7, i, 32, "A"), radiograph.render(7, i, 32, "A"))
    for i in np.flatnonzero(label[:, 1:].sum(1) == 1)[:6]:
        assert not np.array_equal(findings.render(7, i, 32, "A"), radiograph.render(7, i, 32, "A"))


def test_all_or_some_findings_load_like_every_source(tmp_path):
    options = {"cache_dir": tmp_path, "images": 12, "seed": 1, "site": "A"}
    data = records.load("phantom", None, 16, findings="all", **options)
    assert data.classes == findings.NAMES and data.label.shape == (12, 4)
    some = records.load("phantom", None, 16, findings="nodule,effusion", **options)
    assert (some.label == data.label[:, [2, 1]]).all() and (some.image == data.image).all()
    heart = records.load("phantom", None, 16, **options)
    assert (heart.label == data.label[:, 0]).all() and (heart.path == data.path).all()
    with pytest.raises(UserError, match="data.options.findings: no 'fever'"):
        records.load("phantom", None, 16, findings="fever", **options)
