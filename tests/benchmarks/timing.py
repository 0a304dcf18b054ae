"""How it is measured: alternated medians, the matrix-product rate, counted work, program memory."""

import math
import statistics
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

try:
    from jax.extend.core import jaxprs_in_params  # since JAX 0.10
except ImportError:
    from jax.core import jaxprs_in_params


def seconds(run, *args):
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def alternate(contestants, budget_s, least=3, most=15):
    """Median seconds of one step of each contestant, `{name: run(n)}`, taking turns.

    On a shared machine only what ran in the same minutes can be compared. A turn is as many steps
    as fit into a fifth of a second, three at least, after one that is not timed: while the others
    have their turns the system takes back what memory a contestant freed, and a training, which
    never pauses, does not wait for it. There are as many rounds as fit into `budget_s`.
    """
    for run in contestants.values():
        run(1)  # buffers, caches and PyTorch's primitives
    once = {name: seconds(run, 1) for name, run in contestants.items()}
    turn = {name: min(max(round(0.2 / s), 3), 2000) for name, s in once.items()}
    round_s = sum(once[name] * (1 + turn[name]) for name in contestants)
    times = {name: [] for name in contestants}
    for _ in range(min(max(int(budget_s / round_s), least), most)):
        for name, run in contestants.items():
            run(1)
            times[name].append(seconds(run, turn[name]) / turn[name])
    return {name: statistics.median(values) for name, values in times.items()}


class MatrixRate:
    """GFLOP/s of `a @ b` in float32: what the machine gives, sampled all through a run."""

    SIZES = (1024, 2048)

    def __init__(self):
        self._product = jax.jit(jnp.matmul)
        self._squares = {n: jnp.ones((n, n)) for n in self.SIZES}
        self._seen = {n: [] for n in self.SIZES}
        for a in self._squares.values():
            self._product(a, a).block_until_ready()

    def sample(self):
        for n, a in self._squares.items():
            best = min(seconds(lambda a=a: self._product(a, a).block_until_ready()) for _ in "abc")
            self._seen[n].append(2e-9 * n**3 / best)

    def medians(self):
        return {n: statistics.median(seen) for n, seen in self._seen.items()}

    def value(self):
        return max(self.medians().values())


def count_flops(function, *args):
    """FLOP of the matrix products and convolutions that the function's results depend on.

    Products with zeros that pad an image, or that a strided input gradient puts between its
    pixels, are no work. Where the program depends on the platform, its native convolutions count.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _flops(jaxpr)


def _flops(jaxpr):
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation):
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        return _flops_of_conv(equation)
    if name == "cond":
        branches = params["branches"]
        platforms = params.get("branches_platforms")
        if platforms:
            return _flops(branches[platforms.index(None)].jaxpr)
        return max(_flops(branch.jaxpr) for branch in branches)
    times = params["length"] if name == "scan" else 1
    inner = (getattr(j, "jaxpr", j) for j in jaxprs_in_params(params))
    return times * sum(_flops(jaxpr) for jaxpr in inner)


def _flops_of_conv(equation):
    x, kernel = (variable.aval.shape for variable in equation.invars)
    out, params = equation.outvars[0].aval.shape, equation.params
    dims, pixels = params["dimension_numbers"], 1
    for i, j, k, stride, (low, _), spread_x, spread_k in zip(
        dims.lhs_spec[2:],
        dims.out_spec[2:],
        dims.rhs_spec[2:],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    ):
        place = np.arange(out[j])[:, None] * stride + np.arange(kernel[k]) * spread_k - low
        met = (place >= 0) & (place <= (x[i] - 1) * spread_x) & (place % spread_x == 0)
        pixels *= int(met.sum())
    n, features = (out[axis] for axis in dims.out_spec[:2])
    # The kernel's input channels are those of one group.
    return 2 * n * features * pixels * kernel[dims.rhs_spec[1]]


def program_memory(program):
    """Bytes that a compiled program holds at once: deterministic, unlike a process's size."""
    m = program.memory_analysis()
    total = m.temp_size_in_bytes + m.argument_size_in_bytes + m.output_size_in_bytes
    return total - m.alias_size_in_bytes


class Watch(threading.Thread):
    """While in its `with` block, notes when each line of a file appeared."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.times, self._done = path, [], threading.Event()

    def run(self):
        while not self._done.wait(0.003):
            lines = self.path.read_bytes().count(b"\n") if self.path.exists() else 0
            self.times += [time.perf_counter()] * (lines - len(self.times))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()
