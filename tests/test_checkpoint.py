"""A checkpoint comes back bit for bit, or is refused: never wrong weights, never a silent start."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.types import Player, TrainState

ARRAYS_ONLY = {"net": None, "optimizer": None, "decay": 0.0}


def small_state(seed=0, step=3):
    """All that a state may hold: bfloat16, int32 scalars, a typed key, {}, None, empty arrays."""
    rng = np.random.default_rng(seed)
    params = {
        "Conv_0": {
            "kernel": jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32),
            "scale": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        }
    }
    odd = jnp.asarray([np.nan, np.inf, -0.0, 1e-45], jnp.float32)
    opt = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params)
    player = Player(
        params=params, stats={}, opt=opt, ema={"params": params, "batch_stats": {}}, **ARRAYS_ONLY
    )
    other = Player(
        params={"odd": odd}, stats=None, opt=(), ema={"none": jnp.zeros((0, 3))}, **ARRAYS_ONLY
    )
    return TrainState(
        step=jnp.int32(step),
        rng=jax.random.key(seed, impl="rbg"),
        players={"classifier": player, "generator": other},
        reference={},
    )


def same_bits(a, b):
    """Whether two states are equal in structure, dtype and every bit."""

    def bits(x):
        raw = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return x.dtype, x.shape, np.asarray(raw).tobytes()

    same = jax.tree.map(lambda x, y: bits(x) == bits(y), a, b)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(jax.tree.leaves(same))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints 1 and 2, to be copied."""
    folder = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        checkpoint.save(folder, step, small_state(step, step), {"at": step})
    return folder


@pytest.fixture
def folder(two, tmp_path):
    return Path(shutil.copytree(two, tmp_path / "checkpoints"))


def test_a_state_comes_back_bit_for_bit_into_zeros_or_shapes(folder):
    like = jax.tree.map(jnp.zeros_like, small_state())
    for target in (like, jax.eval_shape(small_state)):
        state, meta = checkpoint.restore(folder, target)
        assert same_bits(state, small_state(2, 2)) and meta == {"at": 2}
        assert isinstance(state.players["classifier"].opt[1][0], optax.ScaleByAdamState)
        draw = jax.random.normal(state.rng, (4,))
        np.testing.assert_array_equal(draw, jax.random.normal(small_state(2).rng, (4,)))
    state, meta = checkpoint.restore_step(folder, 1, like)
    assert same_bits(state, small_state(1, 1)) and meta == {"at": 1}


@pytest.mark.parametrize("name", ["lr=[0.1]", "*?", "{a,b}", "a\\b", "100% #1 'q'", "胸部", "n\nl"])
def test_a_folder_is_no_pattern(name, tmp_path):
    checkpoint.save(tmp_path / name / "checkpoints", 1, small_state(), {})
    state, _ = checkpoint.restore_step(tmp_path / name / "checkpoints", 1, small_state())
    assert same_bits(state, small_state())


def test_what_was_not_written_is_never_vouched_for(folder, monkeypatch):
    stored = checkpoint._stored
    monkeypatch.setattr(checkpoint, "_stored", lambda state: set(sorted(stored(state))[1:]))
    with pytest.raises(UserError, match="not there when it is read back"):
        checkpoint.save(folder, 3, small_state(), {})
    assert checkpoint.restore(folder, small_state())[1] == {"at": 2}
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_nothing_to_restore(tmp_path):
    assert checkpoint.restore(tmp_path / "none", small_state()) is None
    assert checkpoint.steps(tmp_path / "none") == []


def test_a_flipped_bit_anywhere_is_noticed(folder):
    rng = np.random.default_rng(0)
    files = [path for path in (folder / "2").rglob("*") if path.is_file()]
    assert len(files) > 5 and folder / "2" / checkpoint.MANIFEST in files
    for path in files:
        raw = path.read_bytes()
        for bit in rng.choice(len(raw) * 8, size=min(len(raw) * 8, 40), replace=False):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(flipped)
            assert checkpoint._fault(folder / "2"), (path, bit)
        path.write_bytes(raw)
    assert checkpoint._fault(folder / "2") is None


def damages(path):
    raw = path.read_bytes()
    yield "truncated", lambda: path.write_bytes(raw[:-1])
    yield "emptied", lambda: path.write_bytes(b"")
    yield "deleted", path.unlink
    yield "longer", lambda: path.write_bytes(raw + b"\n")
    path.write_bytes(raw)


def test_any_damaged_file_falls_back_to_the_step_before(folder, caplog):
    before = small_state(1, 1)
    for path in sorted(p for p in (folder / "2").rglob("*") if p.is_file()):
        raw = path.read_bytes()
        for what, damage in damages(path):
            caplog.clear()
            damage()
            assert checkpoint._fault(folder / "2"), (path, what)
            if what == "truncated":  # one restoring per file is enough
                state, meta = checkpoint.restore(folder, before)
                assert same_bits(state, before) and meta == {"at": 1}
                assert f"{folder}/2 is damaged" in caplog.text and path.name in caplog.text
                with pytest.raises(UserError, match=path.name):
                    checkpoint.restore_step(folder, 2, before)
            path.write_bytes(raw)
    assert checkpoint.restore(folder, before)[1] == {"at": 2}


def test_a_file_too_many_or_a_renamed_step_is_damage(folder):
    (folder / "2").rename(folder / "5")
    assert "manifest.json was changed" in checkpoint._fault(folder / "5")
    (folder / "1" / "state" / "d" / "extra").write_text("")
    assert "does not belong" in checkpoint._fault(folder / "1")


def test_all_damaged_is_an_error_and_not_a_fresh_start(folder):
    (folder / "1" / "manifest.json").unlink()
    (folder / "2" / "state" / "_METADATA").write_bytes(b"")
    with pytest.raises(UserError, match=r"all checkpoints \(1, 2\) are damaged"):
        checkpoint.restore(folder, small_state())


def test_a_damaged_step_is_written_anew_and_training_goes_on(folder):
    (folder / "2" / "state" / "_METADATA").write_bytes(b"")
    checkpoint.save(folder, 2, small_state(7, 2), {"at": "again"})
    state, meta = checkpoint.restore(folder, small_state())
    assert same_bits(state, small_state(7, 2)) and meta == {"at": "again"}


def test_what_an_interrupted_save_leaves_is_never_taken_and_goes(folder):
    shutil.copytree(folder / "2", folder / "3.tmp")
    (folder / "4.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.restore(folder, small_state())[1] == {"at": 2}
    assert checkpoint.steps(folder) == [1, 2]
    checkpoint.save(folder, 3, small_state(), {})
    assert sorted(p.name for p in folder.iterdir()) == ["2", "3"]


def test_what_is_saved_is_the_state_at_the_call_though_steps_use_it_up(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {"w": jnp.zeros(1_000_000), "step": jnp.int32(0)}
    with contextlib.closing(checkpoint.Saver(tmp_path)) as saver:
        for k in (0, 50):
            saver.save(k, state, {})
            for _ in range(50):
                state = step(state)
    for k in (0, 50):
        back, _ = checkpoint.restore_step(tmp_path, k, state)
        assert back["step"] == k and (back["w"] == k).all()


KILLED = """
import sys
from tests.test_checkpoint import small_state
from ssl_gan_jax.training import checkpoint
state, saver = small_state(1, 1), checkpoint.Saver(sys.argv[1])
for step in range(1, 10_000):
    saver.save(step, state, {"at": step})
    print(step - 1, flush=True)  # is on disk by now
"""


def test_sigkill_during_saves_leaves_a_sound_newest_step(tmp_path):
    root = Path(__file__).parent.parent
    rng = np.random.default_rng(0)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(3):
        process.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):  # somewhere within a save
        process.wait(rng.uniform(0.0, 0.2))
    process.kill()
    done = int(([2] + process.stdout.read().split())[-1])
    process.wait()
    state, meta = checkpoint.restore(tmp_path, small_state())
    assert meta["at"] >= done and same_bits(state, small_state(1, 1))


def test_old_steps_go_but_for_the_last_two_and_the_best(tmp_path):
    state = {"w": jnp.ones(3)}
    with contextlib.closing(checkpoint.Saver(tmp_path)) as saver:
        for step in range(1, 7):
            saver.save(step, state, {}, keep=[2])
    assert checkpoint.steps(tmp_path) == [2, 5, 6]
    checkpoint.save(tmp_path, 4, state, {})  # a run that went back leaves later steps alone
    assert checkpoint.steps(tmp_path) == [2, 4, 5, 6]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda k: k.astype(jnp.bfloat16), "bfloat16"),
        (lambda k: k[..., :2], r"float32\[3,3,1,2\]"),
        (lambda k: {"in": k}, r"\['kernel'\]\['in'\]|missing"),
        (lambda k: None, "missing"),
    ],
)
def test_another_dtype_shape_or_structure_is_refused_by_name(folder, change, named):
    state = small_state()
    layer = state.players["classifier"].params["Conv_0"]
    layer["kernel"] = change(layer["kernel"])
    with pytest.raises(UserError, match=r"\.players\['classifier'\]\.\w*.*" + named):
        checkpoint.restore(folder, state)


def test_another_kind_of_key_is_refused(folder):
    with pytest.raises(UserError, match=r"\.rng is key<rbg>\[\] .* key<fry>\[\]"):
        checkpoint.restore(folder, small_state().replace(rng=jax.random.key(0)))


def test_meta_is_json_and_the_manifest_names_every_array(folder):
    manifest = json.loads((folder / "2" / "manifest.json").read_text())
    assert set(manifest) == {"step", "meta", "leaves", "files", "sha256"}
    assert manifest["leaves"][".players['classifier'].params['Conv_0']['scale']"] == "bfloat16[7]"
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.save(folder, 3, small_state(), {"loss": float("nan")})
    assert checkpoint.steps(folder) == [1, 2]


def test_a_full_disk_leaves_the_old_checkpoints(folder):
    big = {"w": jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(UserError, match=rf"{folder}: cannot save step 3 \(File too large\)"):
            checkpoint.save(folder, 3, big, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]
    assert checkpoint.restore(folder, small_state())[1] == {"at": 2}


def test_a_folder_that_is_none_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        with pytest.raises(UserError, match="file"):
            checkpoint.save(path, 1, {"w": jnp.ones(1)}, {})
        with pytest.raises(UserError, match="file"):
            checkpoint.restore(path, {"w": jnp.ones(1)})
