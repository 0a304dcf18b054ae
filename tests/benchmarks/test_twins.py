"""The PyTorch twins, which our speed is compared with, do the same work: they give our losses."""

import pytest

torch = pytest.importorskip("torch")
from tiny import METHODS  # noqa: E402
from twins import compare, disagreements  # noqa: E402


@pytest.mark.parametrize("name", METHODS)
def test_twin_computes_the_same_losses(name):
    assert disagreements(compare(name, size=32, width=4, b=8)) == {}


def test_twin_has_both_generators():
    assert disagreements(compare("dcgan", size=32, width=4, b=8, generator="dcgan")) == {}
