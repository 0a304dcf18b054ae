import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.nets.classifier import Cnn
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.nets.mlp import MlpDiscriminator, MlpGenerator
from ssl_gan_jax.nets.noise import Dropout
from ssl_gan_jax.nets.norm import VirtualBatchNorm, WeightNorm

KEYS = {"params": jax.random.key(0), "noise": jax.random.key(1)}


def normal(*shape, seed=2):
    return jax.random.normal(jax.random.key(seed), shape)


def made(net, x, reference=None):
    """Outputs and variables of a freshly initialised network."""
    init = lambda x, r: net.init_with_output(KEYS, x, train=True, reference=r)  # noqa: E731
    return jax.jit(init)(x, reference)


def shapes(net, x, reference=None):
    """The same, traced only."""
    init = lambda x, r: net.init_with_output(KEYS, x, train=True, reference=r)  # noqa: E731
    return jax.eval_shape(init, x, reference)


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("kind", ["dcgan", "upsample"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_generator_makes_images_of_every_size(kind, dtype):
    for size in (32, 64, 128, 256):
        net = Generator(size, kind, width=2, dtype=jnp.dtype(dtype))
        images, _ = shapes(net, normal(3, 100))
        assert images.shape == (3, size, size, 1) and images.dtype == jnp.float32
    net = Generator(32, kind, width=2, dtype=jnp.dtype(dtype))
    images, _ = made(net, normal(3, 100))
    assert jnp.abs(images).max() <= 1 and images.std() > 0


@pytest.mark.parametrize("norm", ["batch", "weight", "virtual", "none"])
def test_discriminator_takes_images_of_every_size(norm):
    for size in (32, 64, 128, 256):
        net = Discriminator(3, 2, norm, noise=0.3, dropout=(0.2, 0.5), dtype=jnp.bfloat16)
        reference = normal(2, size, size, 1) if norm == "virtual" else None
        (logits, features), variables = shapes(net, normal(4, size, size, 1), reference)
        assert logits.shape == (4, 3) and logits.dtype == jnp.float32 and len(features) == 4
        assert {x.dtype for x in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}


def test_widths_of_the_papers():
    """H and DCGAN: 64-128-256-512 at 64x64. M: four 3x3 convolutions from 8x8 to 128x128."""
    g = shapes(Generator(64, "dcgan", 64), normal(2, 100))[1]["params"]
    made_of = [g[f"StridedConvTranspose_{i}"]["kernel"].shape[2:] for i in range(4)]
    assert made_of == [(256, 512), (128, 256), (64, 128), (1, 64)]
    d = shapes(Discriminator(1, 64), normal(2, 64, 64, 1))[1]["params"]
    made_of = [d[f"StridedConv_{i}"]["kernel"].shape[2:] for i in range(4)]
    assert made_of == [(1, 64), (64, 128), (128, 256), (256, 512)]
    m = shapes(Generator(128, "upsample", 64), normal(2, 100))[1]["params"]
    assert m["Dense_0"]["kernel"].shape == (100, 8 * 8 * 512)
    assert [m[f"StridedConvTranspose_{i}"]["kernel"].shape[:2] for i in range(4)] == [(3, 3)] * 4


@pytest.mark.parametrize("size", [32, 64])
def test_cnn_has_the_depth_and_parameters_of_the_discriminator(size):
    x = normal(2, size, size, 1)
    cnn = jax.eval_shape(lambda x: Cnn(2, 32).init(KEYS, x, train=True), x)["params"]
    d = shapes(Discriminator(3, 32, "weight"), x)[1]["params"]
    assert abs(count(cnn) / count(d) - 1) < 0.1
    layers = lambda p: sum(x.ndim in (2, 4) for x in jax.tree.leaves(p))  # noqa: E731
    assert layers(cnn) == layers(d)


def test_noise_and_dropout_act_in_training_only():
    x = normal(4, 32, 32, 1)
    net = Discriminator(2, 4, "weight", noise=0.3, dropout=(0.2, 0.5))
    _, variables = made(net, x)

    def logits(train, key):
        apply = jax.jit(net.apply, static_argnames="train")
        return apply(variables, x, train=train, rngs={"noise": jax.random.key(key)})[0]

    assert (logits(False, 0) == logits(False, 1)).all()
    assert (logits(True, 0) != logits(True, 1)).any()


def test_dropout_drops_each_element_by_itself_and_keeps_the_mean():
    x = jnp.ones((64, 8, 8, 7))  # 7: not a whole number of words
    y = Dropout(0.25).apply({}, x, train=True, rngs={"noise": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    kept = np.asarray(y.reshape(-1, 7) > 0, float)
    n = len(kept)
    np.testing.assert_allclose(kept.mean(0), 0.75, atol=5 * np.sqrt(0.25 * 0.75 / n))
    between = np.corrcoef(kept.T) - np.eye(7)  # of the elements that share a word, too
    assert np.abs(between).max() < 5 / np.sqrt(n)
    along = np.corrcoef(kept[1:].ravel(), kept[:-1].ravel())[0, 1]
    assert abs(along) < 5 / np.sqrt(7 * n)
    for rate in (-0.1, 1.0):
        with pytest.raises(UserError, match=f"dropout: a rate of {rate}"):
            Dropout(rate).apply({}, x, train=True)


def virtual_batch_norm_loop(x, references):
    """Salimans et al. 2016, one example at a time."""
    ref = x[:references]
    mean_ref, square_ref = ref.mean((0, 1, 2)), (ref**2).mean((0, 1, 2))
    c = 1 / (references + 1)
    out = [(r - mean_ref) / np.sqrt(square_ref - mean_ref**2 + 1e-5) for r in ref]
    for own in x[references:]:
        mean = c * own.mean((0, 1)) + (1 - c) * mean_ref
        square = c * (own**2).mean((0, 1)) + (1 - c) * square_ref
        out.append((own - mean) / np.sqrt(square - mean**2 + 1e-5))
    return np.stack(out)


def test_virtual_batch_norm_equals_a_loop_over_examples():
    x = np.asarray(normal(7, 4, 5, 3) * 2 + 1)
    net = VirtualBatchNorm(references=3)
    params = {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    np.testing.assert_allclose(
        net.apply(params, x), virtual_batch_norm_loop(x, 3), rtol=1e-4, atol=1e-5
    )


def test_virtual_batch_norm_ignores_batch_mates():
    net = Generator(32, "upsample", 4, norm="virtual")
    reference, z = normal(4, 100), normal(6, 100, seed=3)
    _, variables = made(net, z, reference)
    apply = jax.jit(lambda z, r: net.apply(variables, z, train=True, reference=r))
    alone = apply(z[2:3], reference)
    np.testing.assert_allclose(apply(z, reference)[2:3], alone, rtol=1e-4, atol=1e-5)
    other = apply(z[2:3], reference + 1)
    assert jnp.abs(other - alone).max() > 1e-3  # it does look at the reference


def test_virtual_batch_norm_of_constant_images_is_finite():
    net = VirtualBatchNorm(references=2)
    out, _ = net.init_with_output(jax.random.key(0), jnp.full((5, 4, 4, 3), 1e4))
    assert jnp.isfinite(out).all()


@pytest.mark.parametrize(("kind", "shape"), [("dense", (64, 20)), ("conv", (16, 8, 8, 3))])
def test_weight_norm_starts_with_outputs_of_mean_0_and_variance_1(kind, shape):
    net = WeightNorm(5, kind)
    x = 3 * normal(*shape) + 7
    variables = net.init(jax.random.key(0), x)
    y = net.apply(variables, x).reshape(-1, 5)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.var(0), 1, atol=1e-3)
    longer = jax.tree.map(jnp.copy, variables)
    longer["params"]["kernel"] *= 10  # only the direction of v counts
    np.testing.assert_allclose(net.apply(longer, x).reshape(-1, 5), y, rtol=1e-3, atol=1e-3)


def test_weight_norm_of_outputs_that_do_not_vary_starts_with_scale_1():
    for x in (normal(1, 6), jnp.full((8, 6), 3.0)):
        scale = WeightNorm(5).init(jax.random.key(0), x)["params"]["scale"]
        np.testing.assert_array_equal(scale, 1)


@pytest.mark.parametrize("learns", [True, False])
def test_weight_norm_scale_of_hidden_layers_stays_fixed(learns):
    net = WeightNorm(5, learn_scale=learns)
    x = normal(8, 6)
    params = net.init(jax.random.key(0), x)["params"]
    grads = jax.grad(lambda p: (net.apply({"params": p}, x) ** 3).sum())(params)
    assert (jnp.abs(grads["scale"]).max() > 0) == learns


def test_mnist_networks_of_salimans():
    g = MlpGenerator(28)
    images, variables = made(g, jax.random.uniform(KEYS["noise"], (4, 100)))
    assert images.shape == (4, 28, 28, 1) and jnp.abs(images).max() <= 1
    # As in their code, only the last layer has a gain: batch norm has none.
    assert variables["params"]["scale"].shape == (784,)
    assert set(variables["params"]["BatchNorm_0"]) == {"bias"}
    d = MlpDiscriminator(10)
    (logits, features), variables = made(d, images)
    assert logits.shape == (4, 10) and features.shape == (4, 250)
    shapes = [variables["params"][f"WeightNorm_{i}"]["kernel"].shape for i in range(6)]
    assert shapes == [(784, 1000), (1000, 500), (500, 250), (250, 250), (250, 250), (250, 10)]
