"""Three steps of every method, equal to the last bit to those recorded in `recorded.json`.

A change of structure must leave them alone. A change of numbers on purpose records them anew,
in a commit that says so: `PYTHONPATH=tests python tests/test_recorded.py`.
"""

import functools
import hashlib
import json
import os
import platform
from pathlib import Path

import conftest  # noqa: F401  (its XLA_FLAGS are part of what is recorded)
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores import CORES
from tiny import METHODS, started

RECORDED = Path(__file__).with_name("recorded.json")
VARIANTS = {
    "supervised cnn": {"net": "cnn", "dropout": (0.1, 0.1)},
    "ssl_gan D": {"vbn": "D", "loss_g": "feature_matching"},
    "ssl_gan none": {"vbn": "none", "k_logits": True, "consistency": 1.0},
    "ssl_gan mlp": {"nets": "mlp", "vbn": "none", "loss_g": "minimax", "z_prior": "uniform"},
    "ec_gan fake_stats": {"tau": 0.0, "fake_stats": True},
    "three_n_gan tau": {"tau": 0.0, "pseudo_mean": "batch", "flip": True},
    "three_n_gan paired": {"tau": 0.0, "kl": "paired", "kl_both": True, "fake_stats": True},
}
CASES = {**{name: {} for name in METHODS}, **VARIANTS}


def machine() -> dict[str, str]:
    """All that the last bit depends on besides the code."""
    cpu = Path("/proc/cpuinfo")
    flags = (
        [s for s in cpu.read_text().splitlines() if s.startswith("flags")] if cpu.exists() else []
    )
    digest = hashlib.sha256("".join(flags[:1]).encode()).hexdigest()[:16]
    return {
        "cpu": f"{platform.machine()} {digest}",
        "cores": str(CORES),
        "jax": jax.__version__,
        "flags": os.environ.get("XLA_FLAGS", ""),
    }


def digest(tree) -> str:
    """Of the names, shapes, types and bits of a pytree's leaves."""
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        result.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        result.update(array.tobytes())
    return result.hexdigest()[:16]


def outputs(method, state, images) -> list:
    """Predictions on `images` and generated images."""
    found = []
    if method.classify:
        found.append(jax.jit(method.classify)(state, images)[0])
    if method.generate:
        z = method.draw_z(jax.random.key(7), 4)
        found.append(jax.jit(method.generate)(state, z))
    return found


@functools.cache
def three_steps(case: str) -> dict[str, str]:
    """Digests after three steps: one by one, as one scan, and of two seeds side by side."""
    method, state, batch = started(case.split()[0], **CASES[case])
    several = jax.tree.map(lambda x: jnp.stack([x, jnp.flip(x, 0), jnp.roll(x, 1, 0)]), batch)
    step = jax.jit(method.train_step)
    single = state
    for i in range(3):
        single, metrics = step(single, jax.tree.map(lambda x, i=i: x[i], several))
    found = {"steps": digest([single, metrics, *outputs(method, single, batch.image)])}
    if case in METHODS:
        found["scan"] = digest(
            jax.jit(lambda s, b: jax.lax.scan(method.train_step, s, b))(state, several)
        )
        keys = jax.random.split(jax.random.key(3), 2)
        states = jax.vmap(lambda key: method.init(key, batch))(keys)
        found["vmap"] = digest(jax.jit(jax.vmap(method.train_step, (0, None)))(states, batch))
    return found


@pytest.mark.parametrize(
    "case", [case for case in CASES if case in json.loads(RECORDED.read_text())]
)
def test_three_steps_are_those_recorded(case):
    recorded = json.loads(RECORDED.read_text())
    if (here := machine()) != recorded["machine"]:
        pytest.skip(f"the last bit may differ here: {here}, recorded on {recorded['machine']}")
    assert three_steps(case) == recorded[case]


if __name__ == "__main__":
    contents = {"machine": machine(), **{case: three_steps(case) for case in CASES}}
    RECORDED.write_text(json.dumps(contents, indent=1) + "\n")
