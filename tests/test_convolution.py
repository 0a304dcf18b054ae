import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.nets import convolution
from ssl_gan_jax.nets.convolution import strided_conv, strided_conv_transpose, upsample_kernel


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def gradients(function, *args):
    return jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), tuple(range(len(args))))(*args)


# The direct algorithm (the first three), the minimal one, each in one block and in several.
@pytest.mark.parametrize("impl", ["cpu", "auto"])
@pytest.mark.parametrize(
    "shape",
    [(2, 4, 4, 3, 5), (3, 8, 6, 1, 4), (6, 34, 64, 64, 2), (2, 4, 8, 16, 3), (6, 64, 64, 16, 2)],
)
def test_every_form_equals_lax_conv_and_so_do_its_gradients(impl, shape):
    n, h, w, c, f = shape
    x, kernel, y = normal(0, n, h, w, c), normal(1, 4, 4, c, f), normal(2, n, h // 2, w // 2, f)
    for function, a in ((strided_conv, x), (strided_conv_transpose, y)):
        np.testing.assert_allclose(
            function(a, kernel, impl), function(a, kernel, "xla"), rtol=1e-4, atol=1e-4
        )
        ours = gradients(lambda a, k, f=function: f(a, k, impl), a, kernel)
        lax = gradients(lambda a, k, f=function: f(a, k, "xla"), a, kernel)
        for mine, theirs in zip(ours, lax, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_xla_form_is_lax_conv():
    x, kernel = normal(0, 2, 8, 8, 3), normal(1, 4, 4, 3, 5)
    plain = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(strided_conv(x, kernel, "xla"), plain, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=4)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_transpose_is_the_adjoint(n, h, c, f):
    x, kernel, y = normal(0, n, 2 * h, 2, c), normal(1, 4, 4, c, f), normal(2, n, h, 1, f)
    left = jnp.vdot(strided_conv(x, kernel), y)
    right = jnp.vdot(x, strided_conv_transpose(y, kernel))
    np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-3)


def test_upsample_kernel_is_upsampling_then_3x3():
    y, kernel = normal(0, 2, 5, 6, 4), normal(1, 3, 3, 4, 3)
    upsampled = y.repeat(2, axis=1).repeat(2, axis=2)
    plain = jax.lax.conv_general_dilated(
        upsampled, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    ours = strided_conv_transpose(y, upsample_kernel(kernel))
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_near_float32():
    x, kernel = normal(0, 2, 16, 16, 8), normal(1, 4, 4, 8, 8)
    low = strided_conv(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    error = jnp.abs(low.astype(jnp.float32) - strided_conv(x, kernel)).max()
    assert error < 0.03 * jnp.abs(strided_conv(x, kernel)).max()


def test_auto_takes_the_platform_of_the_program_not_of_the_tracer():
    x, kernel = normal(0, 1, 8, 8, 1), normal(1, 4, 4, 1, 2)
    traced = jax.jit(strided_conv).trace(x, kernel)
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_size_that_is_no_power_of_two_is_refused():
    with pytest.raises(UserError, match="power of two"):
        convolution.stages(48, 4)
