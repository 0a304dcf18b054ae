"""What each train step must and must not do, whatever its numbers."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import METHODS, batch, method_config, same, started

import ssl_gan_jax
from ssl_gan_jax import methods
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.methods import supervised
from ssl_gan_jax.types import TrainState


@functools.cache
def step(name, seed=0, perturb=None, negated=False, **changes):
    """The state before and after one step, and its metrics; `perturb` names a player to disturb."""
    method, state, first = started(name, seed, **changes)
    if perturb:
        player = state.players[perturb]
        moved = jax.tree.map(lambda x: x + 0.1, player.params)
        state = state.replace(players={**state.players, perturb: player.replace(params=moved)})
    if negated:
        first = first.replace(unlabeled=-first.unlabeled)
    after, metrics = jax.jit(method.train_step)(state, first)
    return state, after, metrics


@pytest.mark.parametrize("name", METHODS)
def test_every_player_learns_and_every_metric_is_finite(name):
    before, after, metrics = step(name)
    assert after.step == 1 and (after.rng == before.rng).all()
    for player in before.players:
        assert not same(before.players[player].params, after.players[player].params)
    assert all(jnp.isfinite(v) and v.shape == () for v in metrics.values())


TERMS = {
    "supervised": {"L_s"},
    "dcgan": {"J_D", "J_G"},
    "ssl_gan": {"L", "L_labeled", "L_unlabeled", "L_generated", "L_G"},
    "multitask": {"L_D", "L_s", "L_d", "L_g"},
    "ec_gan": {"L_C", "L_s", "L_u", "L_d", "L_g", "mask_rate", "pseudo_labels_1"},
    "three_n_gan": {"L_c", "L_s", "L_u", "L_kl", "L_d", "L_g", "L_cu", "mask_rate"},
    "mean_teacher": {"L_s", "J", "w"},
    "fixmatch": {"L_s", "L_u", "mask_rate", "pseudo_labels_1"},
    "mixmatch": {"L_x", "L_u", "lambda"},
    "triple_gan": {"L_D", "L_G", "L_C", "R_L", "R_P", "H"},
}


@pytest.mark.parametrize("name", TERMS)
def test_terms_are_logged_under_the_names_of_the_papers(name):
    assert set(step(name)[2]) >= TERMS[name]


def test_with_k_logits_the_last_of_k_plus_1_is_0():
    plain = {"noise": 0.0, "dropout": (0.0, 0.0), "shift": 0}
    method, state, first = started("ssl_gan", k_logits=True, **plain)
    _, metrics = jax.jit(method.train_step)(state, first)
    logits, of_u = (method.classify(state, x)[0] for x in (first.image, first.unlabeled))
    log_p = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), first.label]
    np.testing.assert_allclose(metrics["L_labeled"], -log_p.mean(), rtol=1e-4)
    real = jax.nn.sigmoid(jax.nn.logsumexp(of_u, axis=1))  # exp(l_{K+1}) = 1
    np.testing.assert_allclose(metrics["L_unlabeled"], -jnp.log(real).mean(), rtol=1e-4)


def test_totals_are_the_sums_that_the_papers_write():
    m = step("ssl_gan", w=0.7)[2]
    total = m["L_labeled"] + 0.7 * (m["L_unlabeled"] + m["L_generated"])
    np.testing.assert_allclose(m["L"], total, rtol=1e-5)
    m = step("three_n_gan", tau=0.0, lambda_=0.5, alpha=0.4)[2]
    np.testing.assert_allclose(m["L_c"], m["L_s"] + 0.5 * m["L_u"] + 0.4 * m["L_kl"], rtol=1e-5)
    m = step("ec_gan", tau=0.0, lambda_=0.5)[2]
    np.testing.assert_allclose(m["L_C"], m["L_s"] + 0.5 * m["L_u"], rtol=1e-5)


@pytest.mark.parametrize("name", ["ssl_gan", "three_n_gan"])
def test_steps_of_the_other_players_leave_a_player_alone(name):
    """With its own learning rate at 0 nothing moves G: D's and C's steps do not reach it."""
    before, after, _ = step(name, lr_g=0.0)
    assert same(before.players["G"].params, after.players["G"].params)
    before, after, _ = step(name, lr_d=0.0)
    assert same(before.players["D"].params, after.players["D"].params)


def test_l_cu_reaches_g_and_leaves_c_and_d_alone():
    _, with_cu, _ = step("three_n_gan", tau=0.0, lambda_g=10.0)
    _, without, _ = step("three_n_gan", tau=0.0, lambda_g=0.0)
    assert not same(with_cu.players["G"].params, without.players["G"].params)
    assert same(with_cu.players["C"], without.players["C"])
    assert same(with_cu.players["D"], without.players["D"])


def test_in_a_simultaneous_step_g_learns_against_d_and_c_as_they_were():
    _, one_by_one, metrics = step("three_n_gan", tau=0.0)
    _, at_once, at_once_metrics = step("three_n_gan", tau=0.0, simultaneous=True)
    _, _, of_still = step("three_n_gan", tau=0.0, lr_d=0.0, lr_c=0.0)
    for term in ("L_g", "L_cu"):
        np.testing.assert_allclose(at_once_metrics[term], of_still[term], rtol=1e-5)
        assert abs(metrics[term] / of_still[term] - 1) > 1e-4
    for name in "DC":
        players = (after.players[name].params for after in (one_by_one, at_once))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *players)


def test_without_confident_predictions_c_sends_g_nothing():
    _, loud, metrics = step("three_n_gan", tau=1.0, lambda_g=10.0)
    _, silent, _ = step("three_n_gan", tau=1.0, lambda_g=0.0)
    assert metrics["L_cu"] == 0 and metrics["mask_rate"] == 0
    assert same(loud.players["G"], silent.players["G"])


def test_in_ec_gan_nothing_of_c_reaches_g_or_d():
    _, plain, _ = step("ec_gan", tau=0.0)
    _, disturbed, _ = step("ec_gan", tau=0.0, perturb="C")
    assert same(plain.players["G"], disturbed.players["G"])
    assert same(plain.players["D"], disturbed.players["D"])


def test_c_learns_from_generated_images_in_ec_gan_and_3n_gan():
    for name in ("ec_gan", "three_n_gan"):
        _, plain, _ = step(name, tau=0.0)
        _, disturbed, _ = step(name, tau=0.0, perturb="G")
        assert not same(plain.players["C"].params, disturbed.players["C"].params)


def test_without_lambda_and_alpha_c_is_a_plain_classifier():
    off = {"lambda_": 0.0, "alpha": 0.0}
    _, plain, _ = step("three_n_gan", **off)
    _, disturbed, _ = step("three_n_gan", perturb="G", **off)
    assert same(plain.players["C"], disturbed.players["C"])


def test_cs_running_statistics_come_from_real_images_unless_asked():
    for fake_stats in (False, True):
        _, plain, _ = step("three_n_gan", fake_stats=fake_stats)
        _, disturbed, _ = step("three_n_gan", fake_stats=fake_stats, perturb="G")
        assert same(plain.players["C"].stats, disturbed.players["C"].stats) == (not fake_stats)


@pytest.mark.parametrize("loss_g", ["non_saturating", "minimax", "feature_matching"])
def test_ssl_gan_generator_losses_differ(loss_g):
    _, after, metrics = step("ssl_gan", loss_g=loss_g)
    if loss_g == "non_saturating":
        assert metrics["L_G"] > 0
    elif loss_g == "minimax":
        assert metrics["L_G"] < 0
    else:
        _, other, _ = step("ssl_gan", loss_g="feature_matching_l2")
        assert not same(after.players["G"].params, other.players["G"].params)


def test_unlabelled_images_teach_ssl_gan():
    _, plain, _ = step("ssl_gan")
    _, other, _ = step("ssl_gan", negated=True)
    assert not same(plain.players["D"].params, other.players["D"].params)


@pytest.mark.parametrize("vbn", ["G", "D", "both", "none"])
def test_virtual_batch_norm_sits_where_it_is_asked_to(vbn):
    _, state, _ = started("ssl_gan", vbn=vbn)
    assert set(state.reference) == {"G": {"G"}, "D": {"D"}, "both": {"G", "D"}, "none": set()}[vbn]


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_uses_the_averaged_weights(name):
    method, state, first = started(name)
    state, _ = jax.jit(method.train_step)(state, first)
    no_ema = state.replace(
        players={
            k: p.replace(ema=jax.tree.map(jnp.zeros_like, p.ema)) for k, p in state.players.items()
        }
    )
    if method.classify:
        classify = jax.jit(method.classify)
        logits, features = classify(state, first.image)
        assert logits.shape == (8, 2) and features.ndim == 2
        assert not same(logits, classify(no_ema, first.image)[0])
    if method.generate:
        generate, z = jax.jit(method.generate), method.draw_z(jax.random.key(1), 5)
        images = generate(state, z)
        assert images.shape == (5, 16, 16, 1) and jnp.abs(images).max() <= 1
        assert not same(images, generate(no_ema, z))


def test_average_without_decay_is_the_weights_themselves():
    _, after, _ = step("supervised", ema=0.0)
    c = after.players["C"]
    assert same(c.ema, {"params": c.params, "batch_stats": c.stats})


def test_the_average_weighs_each_steps_weights_by_its_age():
    """As the docstring says, and so a decay acts within the few steps of a short run."""
    averages = {}
    for decay in (0.5, 0.9, 0.995):
        method, state, first = started("supervised", ema=decay)
        step, weights = jax.jit(method.train_step), []
        for _ in range(6):
            state, _ = step(state, first)
            weights.append(jax.tree.leaves(state.players["C"].params)[0])
        age = decay ** np.arange(6)[::-1]
        expected = sum(a * w for a, w in zip(age, weights, strict=True)) / age.sum()
        averages[decay] = jax.tree.leaves(state.players["C"].ema["params"])[0]
        np.testing.assert_allclose(averages[decay], expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(averages[0.9], averages[0.995], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_equal_seeds_give_equal_steps_and_others_do_not(name):
    assert same(step(name)[1].players, step.__wrapped__(name)[1].players)
    assert not same(step(name, seed=1)[1].players, step(name)[1].players)


@pytest.mark.parametrize("name", METHODS)
def test_paper_presets_build(name):
    config = ssl_gan_jax.defaults(name, preset="paper")
    assert config != ssl_gan_jax.defaults(name)
    config.update(size=16, width=4)
    method = ssl_gan_jax.build(config)
    state = jax.eval_shape(method.init, jax.random.key(0), batch(name))
    jax.eval_shape(method.train_step, state, batch(name))


@pytest.mark.parametrize("name", ["ssl_gan", "three_n_gan"])
def test_bfloat16_and_three_classes(name):
    first = batch(name)
    first = first.replace(label=jnp.arange(8, dtype=jnp.int32) % 3)
    config = method_config(name, dtype="bfloat16", num_classes=3)
    method = ssl_gan_jax.build(config)
    state = jax.jit(method.init)(jax.random.key(0), first)
    state, metrics = jax.jit(method.train_step)(state, first)
    assert all(jnp.isfinite(v) for v in metrics.values())
    assert jax.jit(method.classify)(state, first.image)[0].shape == (8, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "ssl_gann"}, "did you mean 'ssl_gan'"),
        ({"tua": 0.8}, "did you mean 'tau'"),
        ({"kl": "marginall"}, "did you mean 'marginal'"),
        ({"dtype": "bf16"}, "method.dtype: no 'bf16' among bfloat16, float32"),
        ({"width": 0}, "method.width: 0; must be 1 or more"),
        ({"name": "supervised", "dropout": (0.1,)}, "method.dropout: .*give 2 numbers"),
    ],
)
def test_a_typo_names_the_nearest_and_numbers_that_cannot_be_are_refused(change, message):
    known = change.get("name") in METHODS
    config = dict(methods.defaults(change["name"] if known else "three_n_gan")) | change
    with pytest.raises(UserError, match=message):
        methods.build(config)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits, features: logits, r"classify gives \[8, 2\]; it must give a pair"),
        (lambda logits, features: (logits, features[:, 0]), r"classify gives \[8, 2\], \[8\];"),
    ],
)
def test_a_method_that_breaks_the_contract_is_refused_by_name(answer, message, monkeypatch):
    build = supervised.build

    def broken(config):
        method = build(config)
        return method._replace(classify=lambda state, x: answer(*method.classify(state, x)))

    monkeypatch.setattr(supervised, "build", broken)
    with pytest.raises(UserError, match=f"supervised: {message}"):
        ssl_gan_jax.build(method_config("supervised")).init(jax.random.key(0), batch())


@pytest.mark.parametrize("name", METHODS)
def test_every_random_key_serves_one_purpose(name, monkeypatch):
    uses = collections.Counter()

    class Counted:
        def __init__(self, keys):
            self.keys = keys

        def __getattr__(self, key_name):
            uses[key_name] += 1
            return getattr(self.keys, key_name)

    method, state, first = started(name)
    keys = TrainState.keys
    monkeypatch.setattr(TrainState, "keys", lambda self, *names: Counted(keys(self, *names)))
    jax.make_jaxpr(lambda *args: method.train_step(*args))(state, first)  # traced anew
    assert len(uses) >= 2 and set(uses.values()) == {1}
    data = [tuple(jax.random.key_data(getattr(keys(state, n), n)).tolist()) for n in uses]
    assert len(set(data)) == len(data)


# One step of each method from a fixed state, to be changed only with the method itself.
GOLDEN = {
    "dcgan": {"J_D": 0.6888, "J_G": 0.3399},
    "ec_gan": {"L_C": 0.7556, "L_d": 1.3821, "L_g": 0.6818, "L_s": 0.6883, "L_u": 0.6733},
    "multitask": {"L_D": 1.9727, "L_d": 1.3048, "L_g": 0.6973, "L_s": 0.6679},
    "ssl_gan": {"L_labeled": 0.6889, "L_unlabeled": 0.4839, "L_generated": 0.8975, "L_G": 0.5543},
    "supervised": {"L_s": 0.7219},
    "three_n_gan": {"L_c": 0.695, "L_s": 0.6883, "L_u": 0.6733, "L_d": 1.3821, "L_g": 0.6885},
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_metrics(name):
    """If this fails and you changed the method on purpose, put the printed numbers into GOLDEN.

    If you did not, you changed what the method computes: find out why before you go on.
    """
    changes = {"tau": 0.0} if name in ("ec_gan", "three_n_gan") else {}  # or no pseudo-label counts
    metrics = {k: float(v) for k, v in step(name, **changes)[2].items()}
    print({k: round(v, 5) for k, v in metrics.items()})
    for term, value in GOLDEN[name].items():
        np.testing.assert_allclose(metrics[term], value, rtol=2e-3, atol=1e-4, err_msg=term)
