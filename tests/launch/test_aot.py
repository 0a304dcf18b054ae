"""aot.py: what it reads out of a compiled program, and its roofline by hand."""

import importlib.util
import re
import subprocess
import sys

import aot
import pytest
from conftest import LAUNCH
from tiny_run import get_config

from ssl_gan_jax.errors import UserError

HLO = """
  %all-reduce.1 = (f32[64]{0:T(128)}, bf16[4,4,1,64]{3,2,1,0:T(8,128)(2,1)}) all-reduce(%a, %b), \
channel_id=1, metadata={op_name="jit(step)/reduce_sum" stack_frame_id=3}
  %all-reduce-start.2 = f32[] all-reduce-start(%c), channel_id=2
  %all-reduce-done.2 = f32[] all-reduce-done(%all-reduce-start.2)
  %ag = (f32[2,8]{1,0}, f32[4,8]{1,0}) all-gather-start(%d), channel_id=3
  ROOT %f = f32[64]{0} fusion(%all-reduce.1), kind=kLoop
"""


def test_collectives_are_read_with_their_sizes():
    first, second, third = aot.collectives(HLO)
    assert first == ("all-reduce", (64, 1024), 64 * 4 + 1024 * 2)
    assert second == ("all-reduce", (1,), 4)
    assert third == ("all-gather", (32,), 128)


def test_the_roofline():
    chip = aot.CHIPS["v5e"]
    for n, halved in ((4, 2), (16, 1)):  # the rings of v5e close at 16 chips
        step = aot.Step(n * n, 256, 2e9, 1e9, 0, aot.collectives(HLO)[:1])
        arithmetic, traffic, sent = step.seconds("v5e", (n, n))
        assert (arithmetic, traffic) == (2e9 / chip.flops, 1e9 / chip.hbm)
        assert sent == pytest.approx(halved * 2 * 2304 / chip.link + 2 * n * 1e-6)


def test_topologies():
    assert aot.parse_topology("v4:2x2x4") == ("v4", (2, 2, 4))
    for shapes in aot.PARTS.values():
        assert [aot.math.prod(shape) for shape in shapes] == [1, 4, 16, 64, 256]
    for wrong in ("v5e:16", "v5e:2x2x2", "v4:4x4", "v9:2x2"):
        with pytest.raises(UserError, match="--topology"):
            aot.parse_topology(wrong)


def test_gpus_and_tpus_get_convolutions_and_no_matrix_products_in_their_place():
    lines = list(aot.exported(get_config("method=three_n_gan"), 8))
    assert [line.partition(":")[0] for line in lines] == ["cuda", "tpu"]
    for line in lines:
        assert int(line.split()[1]) > 20, line


def test_a_divided_batch_needs_all_reduce_alone():
    flags = ["--config=tests/launch/tiny_run.py", "--topology=v5e:2x2", "--batch=8"]
    command = [sys.executable, LAUNCH / "aot.py", *flags]
    out = subprocess.run(command, capture_output=True, text=True, cwd=LAUNCH.parent)
    assert out.returncode == 0, out.stderr
    assert re.findall(r"^(\S+): \d+ instructions", out.stdout, re.M) == ["all-reduce"]


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu")
def test_tpu_topologies_are_known_without_a_tpu():
    code = (
        f"import sys; sys.path.insert(0, {str(LAUNCH)!r}); import aot; "
        "print(*(len(aot.devices_of(*aot.parse_topology(t))) for t in sys.argv[1:]))"
    )
    names = ["v5e:16x16", "v5e:1x1", "v4:2x2x4", "v5p:2x2x1", "v6e:8x8"]
    args = [sys.executable, "-c", code, *names]
    out = subprocess.run(args, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["256", "1", "32", "4", "64"]  # v4's chips have two cores
