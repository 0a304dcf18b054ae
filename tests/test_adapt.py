"""A run that adapts to images without labels: each step by its definition, and the whole folder."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_train import small
from tiny import batch, same, started

from ssl_gan_jax import adaptation, inference, report, train
from ssl_gan_jax.commands import adapt, calibration, card, predict
from ssl_gan_jax.errors import UserError

HALF = jnp.array([0.5, 0.5])


def test_the_terms_are_entropy_and_the_divergence_of_the_mean_from_the_expected_shares():
    logits = jnp.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.0]])
    p = np.array(jax.nn.softmax(logits))
    shot = adaptation.terms(logits, HALF)
    assert shot.entropy == pytest.approx(-(p * np.log(p)).sum(1).mean(), rel=1e-5)
    mean, prior = p.mean(0), np.array([0.2, 0.8])
    assert shot.diversity == pytest.approx((mean * np.log(mean / 0.5)).sum(), rel=1e-4)
    found = adaptation.terms(logits, jnp.array(prior)).diversity
    assert found == pytest.approx((mean * np.log(mean / prior)).sum(), rel=1e-4)
    assert adaptation.terms(logits, jnp.array(mean)).diversity == pytest.approx(0, abs=1e-6)
    sure = adaptation.terms(jnp.array([[99.0, -99.0]]), HALF)  # no logarithm of 0
    assert np.isfinite(sure).all() and sure.entropy == pytest.approx(0, abs=1e-6)


def test_pseudo_labels_follow_the_clusters_of_the_features():
    """Where the classifier is wrong about some images of a cluster, the others decide."""
    rng, truth = np.random.default_rng(0), np.arange(200) % 2
    features = rng.normal(size=(200, 5)) + 4 * np.eye(5)[truth]
    p = np.where(rng.random(200) < 0.25, 1 - truth, truth) * 0.8 + 0.1
    probs = np.stack([1 - p, p], 1)
    assert np.mean((p > 0.5) == truth) < 0.8
    assert np.mean(adaptation.pseudo_labels(features, probs) == truth) > 0.98
    one = adaptation.pseudo_labels(features, np.tile([1.0, 0.0], (200, 1)))  # a class without any
    assert set(one) <= {0, 1}


METHODS = {
    "supervised": {"norm": "batch"},
    "fixmatch": {},
    "ssl_gan": {"vbn": "both"},
    "multitask": {},
}


def logits_of(method, state, images):
    return np.array(method.classify(state, images)[0])


@pytest.mark.parametrize("name", METHODS)
def test_the_last_layer_stays_and_the_new_images_are_surer_and_even(name):
    method, state, _ = started(name, **METHODS[name])
    player = "C" if "C" in state.players else "D"
    images = batch(b=8, seed=5).image
    begun = adaptation.begin(state, player, images, 1e-3)
    np.testing.assert_array_equal(
        logits_of(method, begun, images), logits_of(method, state, images)
    )
    step = jax.jit(
        functools.partial(
            adaptation.step, name=player, prior=HALF, weak=lambda _, x: x, view=lambda _, x: x
        )
    )
    adapted, losses = begun, []
    label = jnp.array(logits_of(method, state, images).argmax(1))
    for taken in range(30):
        adapted, metrics = step(adapted, images, label, jnp.int32(taken))
        losses.append(float(metrics["L"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    before, after = (s.players[player].params for s in (begun, adapted))
    kept = [layer for layer in before if same(before[layer], after[layer])]
    assert len(kept) == 1  # whose biases are those of the outputs
    assert len(before[kept[0]]["bias"]) == state.players[player].net.outputs
    others = [key for key in state.players if key != player]
    assert all(same(adapted.players[key], state.players[key]) for key in others)
    ended = adaptation.end(adapted, player, state.players[player])
    assert jax.tree.structure(ended) == jax.tree.structure(state)
    if name == "supervised":  # statistics of the new images
        assert not same(ended.players[player].stats, state.players[player].stats)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train.run(small("ssl_gan"), folder / "run")
    (folder / "images").mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    return folder


def called(command, *args):
    return command.main(command.PARSER.parse_args(list(map(str, args))))


def test_the_folder_opens_in_every_command_and_says_that_nothing_was_tested(
    finished, tmp_path, capsys
):
    out, images = tmp_path / "new", finished / "images"
    source = {p: p.read_bytes() for p in (finished / "run").rglob("*") if p.is_file()}
    options = ["--steps=3", "--augmentation=weak", "--prevalence=.3", "--json"]
    args = f"--workdir={finished / 'run'}", images, f"--out={out}"
    assert called(adapt, *args, *options) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["images"] == 12 and "few" in said.err
    assert source == {p: p.read_bytes() for p in source}
    run = inference.open_run(out)
    assert run.result["test"] is None and run.result["validation"] is None
    assert run.calibration.threshold() == 0.5 and run.calibration.temperature == 1
    before = inference.open_run(finished / "run")
    assert not same(before.state, run.state) and int(run.state.step) == int(before.state.step) + 3
    text = (out / "MODEL_CARD.md").read_text()
    assert text.index("Adapted, and not tested") < text.index("## Use")
    assert "12 images of another place, **without labels**" in text and "Nothing was tested" in text
    assert called(card, f"--workdir={out}") is None and (out / "MODEL_CARD.md").read_text() == text
    assert called(predict, f"--workdir={out}", images, f"--out={tmp_path / 'p.csv'}") == 0
    assert ",no\n" in (tmp_path / "p.csv").read_text()  # familiar by now
    refused = called(
        predict, f"--workdir={out}", images, f"--out={tmp_path / 'p.csv'}", "--adapt_threshold"
    )
    assert refused == 1 and "no calibration" in capsys.readouterr().err
    with pytest.raises(UserError, match="adapted to images without labels"):
        called(calibration, f"--workdir={out}")
    found = report.write([finished / "run", out], tmp_path / "report")
    assert not found.unreadable and [r.changes for r in found.runs if r.folder == out]
    assert any("adapted shot" in run.changes for run in found.runs)
    with pytest.raises(UserError, match="another run.*adapted: shot there"):
        train.run(small("ssl_gan"), out)
    with pytest.raises(UserError, match="is there already"):
        called(adapt, *args)


def test_the_same_call_gives_the_same_weights_and_what_cannot_be_is_refused(finished, tmp_path):
    run = inference.open_run(finished / "run")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1), np.uint8)
    a, b, c = (adaptation.adapt(run, images, np.full(2, 0.5), 2, 1e-3, seed=s) for s in (0, 0, 1))
    assert same(a, b) and not same(a, c)
    args = f"--workdir={finished / 'run'}", finished / "images", f"--out={tmp_path / 'new'}"
    for wrong in ("--steps=0", "--lr=-1", "--prevalence=0"):
        with pytest.raises(UserError, match=wrong.partition("=")[0]):
            called(adapt, *args, wrong)
    assert not (tmp_path / "new").exists()


def test_with_batch_normalisation_only_the_statistics_change_by_default(finished, tmp_path):
    train.run(small("supervised", **{"method.norm": "batch"}), tmp_path / "run")
    out = tmp_path / "new"
    called(adapt, f"--workdir={tmp_path / 'run'}", finished / "images", f"--out={out}")
    before, after = (inference.open_run(f).state.players["C"].ema for f in (tmp_path / "run", out))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7),
        before["params"],
        after["params"],
    )  # a running average rounds
    assert not same(before["batch_stats"], after["batch_stats"])
    assert "only the statistics" in (out / "MODEL_CARD.md").read_text()
    found = report.write([tmp_path / "run", out], tmp_path / "report")
    assert any("adapted statistics" in run.changes for run in found.runs)
