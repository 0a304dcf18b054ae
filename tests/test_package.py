"""What importing and reading the package costs and promises."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import ml_collections
import pytest
from tiny import METHODS, batch

import ssl_gan_jax
from ssl_gan_jax import methods

ROOT = Path(__file__).parents[1]


def test_import_loads_neither_tensorflow_nor_orbax():
    code = "import sys, ssl_gan_jax, json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(out.stdout)}
    assert not loaded & {"tensorflow", "tensorflow_datasets", "orbax", "sklearn", "tensorboardX"}


def test_a_new_file_is_a_new_method_and_helpers_are_not(tmp_path, monkeypatch):
    for name in ("mine.py", "_shared.py"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    assert methods.names() == sorted([*METHODS, "mine"])


def config_of(path, arg=None) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


ARGUMENTS = {
    "chex": [f"method={name}" for name in METHODS],
    "domain": [
        "scenario=cnn",
        "scenario=gan",
        "scenario=gan_adapted",
        "scenario=adamatch",
        "scenario=target,data=phantom,source=A,target=B",
    ],
    "synthesis": ["", "size=64"],
}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_runs_with_the_methods_it_takes(path):
    """Traced, at full size: shapes fit and the settings are known."""
    for arg in ARGUMENTS.get(path.stem, ["method=ssl_gan", "method=supervised"]):
        config = config_of(path, arg)
        b, u, size = config.train.batch_size, config.train.unlabeled_batch_size, config.data.size
        images = jax.eval_shape(lambda b=b, u=u, size=size: batch(b=max(b, u), size=size))
        images = images.replace(
            image=jax.ShapeDtypeStruct((b, size, size, 1), "float32"),
            label=jax.ShapeDtypeStruct((b,), "int32"),
            unlabeled=jax.ShapeDtypeStruct((u, size, size, 1), "float32"),
        )
        method = ssl_gan_jax.build(config.method)
        state = jax.eval_shape(method.init, jax.random.key(0), images)
        after, metrics = jax.eval_shape(method.train_step, state, images)
        assert jax.tree.structure(after) == jax.tree.structure(state) and metrics
        assert json.dumps(config.to_dict()) and config.replicas == 1


def test_every_config_says_how_to_call_it():
    for path in (ROOT / "configs").glob("*.py"):
        assert f"--config=configs/{path.name}" in path.read_text().split('"""')[1], path


def test_a_changed_size_reaches_the_method():
    config = config_of(ROOT / "configs" / "chex.py", "size=64")
    config.data.size = 128
    assert config.to_dict() == config_of(ROOT / "configs" / "chex.py", "size=128").to_dict()
    assert config.method.size == 128 and config.method.shift == 12
    config.method.shift = 2  # what somebody gives holds
    config.data.size = 32
    assert config.method.shift == 2
