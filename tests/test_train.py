"""Whole runs, small: what is in the folder, what a resumption keeps, what is refused."""

import dataclasses
import functools
import hashlib
import itertools
import json
import re
import shutil

import jax
import ml_collections
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import METHODS, build

from ssl_gan_jax import methods, train
from ssl_gan_jax.config import as_ssl_gan, base
from ssl_gan_jax.data import dataset as task_lib
from ssl_gan_jax.data import prepared
from ssl_gan_jax.errors import Stopped, UserError
from ssl_gan_jax.training import checkpoint, compiled, run
from ssl_gan_jax.training.folder import lock_folder
from ssl_gan_jax.types import Batch


def small(method, data="phantom", steps=4, **changes):
    """A config that trains in a second or two, once compiled."""
    config = base(method, data=data, size=16)
    if method == "supervised":
        as_ssl_gan(config.method)
    config.method.width = 4
    if method == "ssl_gan":
        config.method.reference_size = 4
        config.train.unlabeled_batch_size = 8
    if data == "phantom":
        config.data.options = {"images": 160, "site": "A"}
    config.data.labels_per_class = 6
    config.train.update(steps=steps, batch_size=8, log_every=1, evaluate_every=2)
    config.train.update(checkpoint_every=2, sample_every=4)
    config.update_from_flattened_dict(changes)
    return config


def scalars(workdir, prefix="train"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if any(name.startswith(prefix) for name in line)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`small(method)` trained without interruption, once for all tests: its folder."""

    @functools.cache
    def run(method):
        folder = tmp_path_factory.mktemp(method)
        train.run(small(method), folder)
        return folder

    return run


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    with lock_folder(tmp_path), pytest.raises(UserError, match="another process trains there"):
        train.run(small("supervised"), tmp_path)
    assert not list(tmp_path.iterdir())
    with lock_folder(tmp_path):  # it has been let go
        pass


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_the_phantom_and_leaves_a_complete_folder(method, whole):
    folder = whole(method)
    result = json.loads((folder / "result.json").read_text())
    assert [line["step"] for line in scalars(folder)] == [1, 2, 3, 4]
    assert list(folder.glob("events.*")) and json.loads((folder / "config.json").read_text())
    assert checkpoint.steps(folder / "checkpoints")[-1] == 4
    assert not list(folder.rglob("*.tmp"))
    if build(method).generate:
        picture = Image.open(folder / "samples" / "000004.png")
        assert picture.size == (8 * 18 - 2, 8 * 18 - 2) and np.std(picture) > 0
    if method != "dcgan":
        scores = result["test"]
        assert 0 <= scores["auroc"]["low"] <= scores["auroc"]["value"] <= scores["auroc"]["high"]
        assert scores["threshold"] == result["validation"]["threshold"]
        rows = (folder / "predictions.csv").read_text().splitlines()
        assert rows[0] == "path,label,p_normal,p_cardiomegaly,decision"
        assert len(rows) == 1 + scores["n"]


def test_every_method_trains_on_real_images(real_data, tmp_path):
    """On every 40th: tests/data counts them all."""
    for path in sorted(real_data.glob("chest_xray/*/*/*.jpeg"))[::40]:
        some = tmp_path / path.relative_to(real_data)
        some.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, some)
    for method in METHODS:
        config = small(method, data="kermany", steps=2, **{"data.dir": str(tmp_path)})
        result = train.run(config, tmp_path / method)
        if method != "dcgan":
            assert result["labelled"] == 12
            assert result["test"]["n"] == len(list(tmp_path.glob("chest_xray/test/*/*")))


class Death(Exception):
    """Stands for whatever ends a process."""


def dies_after_its_first_save(config, workdir):
    """Trains until a checkpoint has been written, and no further."""

    def save_and_die(*args, save=checkpoint.Saver.save, **kwargs):
        save(*args, **kwargs)
        raise Death

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Death):
        patch.setattr(checkpoint.Saver, "save", save_and_die)
        train.run(config, workdir)


@pytest.mark.parametrize("method", METHODS)
def test_resumed_is_bit_for_bit_uninterrupted(method, whole, tmp_path):
    dies_after_its_first_save(small(method), tmp_path)
    assert checkpoint.steps(tmp_path / "checkpoints") == [2]
    assert not (tmp_path / "result.json").exists()
    train.run(small(method), tmp_path)
    assert_same_run(whole(method), tmp_path)


def test_stopped_anywhere_it_saves_and_goes_on_bit_for_bit(tmp_path):
    """Also between two lines of metrics: the steps before the stop count in the next line."""
    config = small("ssl_gan", steps=6, **{"train.log_every": 3, "train.checkpoint_every": 6})
    config.train.evaluate_every = 6
    train.run(config, tmp_path / "whole")
    for stops_at in (1, 2):  # twice in a row, then to the end
        asked = itertools.count(1)
        with pytest.raises(Stopped):
            train.run(config, tmp_path / "broken", stop=lambda: next(asked) == stops_at)  # noqa: B023
    assert checkpoint.steps(tmp_path / "broken" / "checkpoints")[-1] == 3
    assert scalars(tmp_path / "broken")[-1]["step"] == 3
    train.run(config, tmp_path / "broken")
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def assert_same_run(a, b):
    """Weights, all else that training carries, metrics and predictions, to the last bit."""
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    for x, y in zip(trained(a), trained(b), strict=True):
        assert x.tobytes() == y.tobytes()
    if (a / "predictions.csv").exists():
        assert (a / "predictions.csv").read_bytes() == (b / "predictions.csv").read_bytes()


def trained(workdir):
    """The weights and all else that training left, as NumPy arrays."""
    state, _ = checkpoint.restore(workdir / "checkpoints", json_like(workdir))
    leaves = jax.tree.leaves(state)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in leaves]


@pytest.mark.parametrize("method", ["ssl_gan", "three_n_gan"])
def test_several_steps_a_call_are_the_same_steps(method, tmp_path):
    """To rounding: the compiler may join other operations where it sees several steps."""
    changes = {"train.log_every": 4, "train.evaluate_every": 4, "train.checkpoint_every": 4}
    for k in (1, 4):
        train.run(
            small(method, steps=5, **changes, **{"train.steps_per_call": k}), tmp_path / f"{k}"
        )
    assert [line["step"] for line in scalars(tmp_path / "4")] == [4, 5]
    for one, four in zip(*(scalars(tmp_path / k) for k in "14"), strict=True):
        assert one == pytest.approx(four, rel=1e-4, abs=1e-5)
    for one, four in zip(trained(tmp_path / "1"), trained(tmp_path / "4"), strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-2, atol=1e-4)


@given(st.integers(0, 30), st.integers(0, 60), st.integers(1, 9), st.lists(st.integers(1, 12)))
def test_calls_cover_every_step_once_and_stop_at_every_event(start, more, several, every):
    ends = list(itertools.accumulate(train.call_lengths(start, start + more, several, every)))
    assert (ends[-1] if ends else 0) == more
    events = {s for s in range(start + 1, start + more) for n in every if s % n == 0}
    assert events <= {start + end for end in ends}


def test_each_replica_is_its_own_single_run(whole, tmp_path):
    together = train.run(small("ssl_gan", replicas=2), tmp_path / "both")
    train.run(small("ssl_gan", **{"train.seed": 1}), tmp_path / "1")
    for seed, alone in enumerate((whole("ssl_gan"), tmp_path / "1")):
        folder, result = tmp_path / "both" / f"seed_{seed}", together["runs"][seed]
        assert result["seed"] == seed and result["replicas"] == 2
        assert (folder / "config.json").read_text() == (alone / "config.json").read_text()
        for a, b in zip(scalars(folder), scalars(alone), strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
        auroc = json.loads((alone / "result.json").read_text())["test"]["auroc"]["value"]
        assert result["test"]["auroc"]["value"] == pytest.approx(auroc, abs=0.02)


def test_replicas_that_were_stopped_go_on_in_their_folders(tmp_path):
    """One had saved step 2 and the other not: each goes on from where it stood."""
    config = small("supervised", replicas=2)
    whole = train.run(config, tmp_path / "whole")
    dies_after_its_first_save(config, tmp_path / "broken")
    folders = [tmp_path / "broken" / f"seed_{i}" / "checkpoints" for i in (0, 1)]
    assert list(map(checkpoint.steps, folders)) == [[2], []]
    again = train.run(config, tmp_path / "broken")
    for a, b in zip(whole["runs"], again["runs"], strict=True):
        assert a["test"]["n"] == b["test"]["n"] and b["steps"] == 4
        assert a["test"]["auroc"]["value"] == pytest.approx(b["test"]["auroc"]["value"], abs=0.02)


def test_runs_that_differ_in_more_than_seed_and_labels_do_not_train_together(tmp_path):
    configs = [small("supervised"), small("supervised", **{"method.lr": 0.25})]
    with pytest.raises(UserError, match=r"together.*method\.lr"):
        train.together(configs, [tmp_path / "a", tmp_path / "b"])


def test_runs_of_one_method_compile_its_step_once(tmp_path, monkeypatch):
    traced = []
    build_method = methods.build

    def counting(config):
        method = build_method(config)

        def train_step(state, batch):
            traced.append(len(batch.image))
            return method.train_step(state, batch)

        return method._replace(train_step=train_step)

    monkeypatch.setattr(methods, "build", counting)
    monkeypatch.setattr(run, "compile_method", compiled.compile_method)  # not the one of all tests
    compiled.compile_method.cache_clear()
    train.run(small("supervised", steps=6), tmp_path / "a")
    train.run(small("supervised", steps=6, **{"train.seed": 1}), tmp_path / "b")
    assert traced == [8]
    compiled.compile_method.cache_clear()


def is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def json_like(workdir):
    """The structure of a run's state, from its config alone."""
    config = ml_collections.ConfigDict(json.loads((workdir / "config.json").read_text()))
    config.method.dropout = tuple(config.method.dropout)
    b, u = config.train.batch_size, config.train.unlabeled_batch_size
    batch = Batch(
        image=jax.ShapeDtypeStruct((b, 16, 16, 1), np.float32),
        label=jax.ShapeDtypeStruct((b,), np.int32),
        unlabeled=jax.ShapeDtypeStruct((u, 16, 16, 1), np.float32),
    )
    state = jax.eval_shape(methods.build(config.method).init, jax.random.key(0), batch)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state)


def test_a_finished_run_is_not_run_again(whole, monkeypatch):
    folder = whole("supervised")
    monkeypatch.setattr(run, "open_dataset", None)
    result = train.run(small("supervised"), folder)
    assert result == json.loads((folder / "result.json").read_text())


def test_a_finished_run_goes_on_to_more_steps(whole, tmp_path):
    """As a run that was longer from the start; here its old end is a step of the schedule."""
    shutil.copytree(whole("ssl_gan"), tmp_path / "short")
    before = (tmp_path / "short" / "result.json").read_bytes()
    longer = small("ssl_gan", steps=6)
    assert train.run(longer, tmp_path / "short")["steps"] == 6
    train.run(longer, tmp_path / "long")
    assert_same_run(tmp_path / "long", tmp_path / "short")
    assert (tmp_path / "short" / "result.4.json").read_bytes() == before
    with pytest.raises(UserError, match="at step 6 and cannot go back to 5"):
        train.run(small("ssl_gan", steps=5), tmp_path / "short")
    assert json.loads((tmp_path / "short" / "result.json").read_text())["steps"] == 6


def test_a_run_without_checkpoints_does_not_go_on(whole, tmp_path):
    shutil.copytree(whole("supervised"), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="checkpoints are gone"):
        train.run(small("supervised", steps=6), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists()


def test_a_run_of_an_earlier_version_goes_on_with_the_same_names_and_labels(whole, tmp_path):
    task = run.open_dataset(small("supervised").data, 0)
    old = hashlib.sha256(repr(task.records.path[task.labeled].tolist()).encode())
    for rows in task[2:]:
        old.update(repr(task.records.path[rows].tolist()).encode())
    for rows in (task.labeled, task.val):
        old.update(repr(task.records.label[rows].tolist()).encode())
    assert task_lib.changes(task, old.hexdigest()) == []
    assert task_lib.changes(task, "0" * 64) == ["names or labels"]


def test_a_folder_of_another_run_is_refused_with_the_difference(whole):
    folder = whole("supervised")
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    other = small("supervised", **{"method.lr": 0.25})
    with pytest.raises(UserError, match=r"method\.lr: 0.0005 there, 0.25 now.*--workdir"):
        train.run(other, folder)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))


def test_a_run_does_not_go_on_with_other_pixels_of_the_same_names(whole, tmp_path, monkeypatch):
    shutil.copytree(whole("supervised"), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    open_dataset = run.open_dataset

    def others(*args):
        task = open_dataset(*args)
        image = task.records.image.copy()
        image[task.test[0], 3, 3] ^= 1  # a single bit
        return task._replace(records=dataclasses.replace(task.records, image=image))

    monkeypatch.setattr(run, "open_dataset", others)
    with pytest.raises(UserError, match=r"\(other pixels\)"):
        train.run(small("supervised"), tmp_path / "run")


def test_a_run_does_not_go_on_with_other_labels(whole, tmp_path, monkeypatch):
    shutil.copytree(whole("supervised"), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    open_dataset = run.open_dataset

    def another_label(*args):
        task = open_dataset(*args)
        label = task.records.label.copy()
        label[task.labeled[0]] = 1 - label[task.labeled[0]]
        return task._replace(records=dataclasses.replace(task.records, label=label))

    monkeypatch.setattr(run, "open_dataset", another_label)
    with pytest.raises(UserError, match="division or labels are not those"):
        train.run(small("supervised"), tmp_path / "run")


def test_checkpoints_without_their_config_are_refused(whole, tmp_path):
    shutil.copytree(whole("supervised") / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"without their config\.json"):
        train.run(small("supervised"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_loss_that_is_not_finite_stops_with_step_and_term(tmp_path):
    config = small("ssl_gan", steps=6, **{"method.lr_d": 1e30, "train.log_every": 3})
    with pytest.raises(UserError, match=r"step [2-6]: .*L_.* not finite") as error:
        train.run(config, tmp_path)
    assert not (tmp_path / "result.json").exists()
    bad = int(re.search(r"step (\d)", str(error.value))[1])
    assert all(step < bad for step in checkpoint.steps(tmp_path / "checkpoints"))  # nor the best


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.labels_per_class": 5000}, r"5000 labels.*class 0: \d+, class 1: \d+"),
        ({"data.images": 12}, "give one of them"),
        ({"data.pool": "some"}, r"data\.pool: no 'some'"),
        ({"data.adapt": "target"}, r"data\.target_site"),
        ({"data.val": 1.5}, r"data\.val: 1\.5"),
        ({"data.test": 0.95}, "leave nothing"),
        ({"data.max_unreadable": -0.1}, r"data\.max_unreadable"),
        ({"train.seed": -1}, r"train\.seed: -1"),
        ({"method.width": 0}, r"method\.width: 0"),
        ({"train.evaluation_batch_size": 0}, r"train\.evaluation_batch_size: 0"),
        ({"data.name": "kermani"}, "kermany"),
        ({"data.name": "kermany", "data.dir": "nowhere"}, "nowhere"),
        ({"data.only_class": "pneumonia"}, "normal"),
        ({"method.name": "3n_gan"}, "three_n_gan"),
        ({"replicas": 0}, "replicas"),
        ({"train.steps_per_call": 0}, r"train\.steps_per_call: 0"),
        ({"train.batch_size": 0}, r"train\.batch_size: 0"),
        ({"train.unlabeled_batch_size": -1}, r"train\.unlabeled_batch_size: -1"),
        ({"train.unlabeled_batch_size": 0}, "unlabelled images"),
        ({"train.log_every": 0}, r"train\.log_every: 0"),
        ({"data.size": 48}, "power of two"),
        ({"train.epochs": 0, "train.steps": 0}, "train.steps"),
    ],
)
def test_bad_input_is_named_before_work_and_leaves_no_folder(
    changes, message, tmp_path, monkeypatch
):
    if "data.name" in changes:
        changes = {"data.options": {}, **changes}
    config = small("ssl_gan" if "train.unlabeled_batch_size" in changes else "supervised")
    config.data.options = {} if "data.name" in changes else config.data.options
    config.update_from_flattened_dict({k: v for k, v in changes.items() if k != "data.options"})
    monkeypatch.setattr(prepared, "load", None)  # no image is prepared
    with pytest.raises(UserError, match=message):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_test_labels_and_unlabelled_labels_change_nothing_in_training(tmp_path, monkeypatch):
    config, open_dataset = small("ssl_gan", **{"train.seed": 1}), run.open_dataset

    def other_labels(*args):
        task = open_dataset(*args)
        label = task.records.label.copy()
        hidden = np.setdiff1d(np.arange(len(label)), np.union1d(task.labeled, task.val))
        label[hidden] = 1 - label[hidden]
        return task._replace(records=dataclasses.replace(task.records, label=label))

    a, b = tmp_path / "a", tmp_path / "b"
    train.run(config, a)
    monkeypatch.setattr(run, "open_dataset", other_labels)
    train.run(config, b)
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    a, b = (json.loads((folder / "result.json").read_text())["test"] for folder in (a, b))
    assert a["threshold"] == b["threshold"]
    assert a["auroc"]["value"] == pytest.approx(1 - b["auroc"]["value"]) != pytest.approx(0.5)


def test_a_run_that_is_older_than_a_setting_goes_on_with_its_default(whole, tmp_path):
    shutil.copytree(whole("supervised"), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["method"]["augmentation"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"method\.augmentation: weak there, strong now"):
        train.run(small("supervised", **{"method.augmentation": "strong"}), tmp_path / "run")
    train.run(small("supervised", steps=6), tmp_path / "run")
