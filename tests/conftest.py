"""Fixtures of the whole suite: real images where there are any, and a cache of prepared ones."""

import functools
import os
from pathlib import Path

import pytest
from cores import CORES

REPOSITORY = Path(__file__).parent.parent

# Programs compiled once serve every test, the processes that tests start, and the next session.
# For another number of cores XLA divides sums in other parts, which changes their last bits.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".pytest_cache" / f"jax-{CORES}-cores")
)
# Both compile several times faster.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_collection_modifyitems(items):
    """The longest files first: then no worker waits long for the other at the end."""
    longest = {"test_train.py", "test_parallel.py", "test_main.py", "test_processes.py"}
    items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Prepared images of this session's tests, away from the user's own cache."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one cache for all workers: one prepares for all
        folder = folder.parent
    folder /= "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_GAN_JAX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def programs():
    """Every program that training compiles is kept, not the last ones only."""
    from ssl_gan_jax.training import compiled, run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "compile_method", functools.cache(compiled.compile_method.__wrapped__))
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder of published data sets: $SSL_GAN_JAX_DATA, or ../shared/data."""
    folder = Path(os.environ.get("SSL_GAN_JAX_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        absent = "the real images are not here: set SSL_GAN_JAX_DATA to their folder"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(absent)
        pytest.skip(absent)
    return folder
