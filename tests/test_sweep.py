"""Sweeps: which cells there are, who trains with whom, and what a failing cell does to the rest."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import in_process
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_gan_jax import train
from ssl_gan_jax.commands import sweep
from ssl_gan_jax.errors import Stopped, UserError
from ssl_gan_jax.report import rows

ROOT = Path(__file__).parents[1]
CONFIG = """
from ssl_gan_jax.config import base, parse_arg

def get_config(arg=None):
    a = parse_arg(arg, method="supervised", labels=6, seed=0)
    config = base(a.method, data="phantom", size=32, seed=a.seed)
    config.data.options = {"images": 160, "site": "A"}
    config.data.labels_per_class = a.labels
    config.method.width = 4
    config.train.update(steps=2, batch_size=7)  # divides over nothing
    return config

def sweep(add):
    for labels, seed in ((6, 0), (6, 1), (6, 2), (5000, 0), (5000, 1)):
        add(labels=labels, seed=seed)

def twice(add):
    add(seed=0)
    add(seed=0)

def typo(add):
    add(seed=0, **{"method.lrr": 1.0})

def control(add):
    add(seed=0)
    add(seed=0, **{"method.lr": 0.5})
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


def test_cells_have_the_values_that_were_added_and_those_for_all(config):
    found = sweep.cells(config, "labels=3", {"train.steps": 7}, "control")
    assert [cell.name for cell in found] == ["seed=0", "seed=0,method.lr=0.5"]
    assert [cell.config.method.lr for cell in found] == [2e-4, 0.5]
    assert all(c.config.train.steps == 7 and c.config.data.labels_per_class == 3 for c in found)


@pytest.mark.parametrize(
    ("function", "message"),
    [("twice", "seed=0 twice"), ("typo", "method.lr'"), ("sweeep", "no function 'sweeep'")],
)
def test_a_sweep_that_makes_no_sense_is_refused(config, function, message):
    with pytest.raises(UserError, match=message):
        sweep.cells(config, "", {}, function)


def changes(file, arg="", overrides=(), function="sweep"):
    """What the columns of a report would say of each cell of a sweep."""
    row = {"method": "m", "data": "d", "size": 1, "seed": 0, "classes": [], "experiment": "e"}
    found = sweep.cells(str(file), arg, dict(overrides), function)
    return {rows.to_run(row | {"cell": cell.table_cell}, "").changes for cell in found}


CHEX = ROOT / "configs" / "chex.py"


def test_an_argument_is_a_change_as_the_same_flag_is_and_where_a_run_stands_is_none(config):
    assert changes(config) == changes(config, "labels=3") == {()}
    assert changes(config, "", {"method.width": 8, "data.size": 64}) == {("width 8",)}
    assert changes(config, "", {"train.log_every": 7, "data.cache_dir": "/x"}) == {()}
    assert changes(config, "", {"data.options.site": "B"}) == {("data.options.site B",)}
    folder = ROOT / "configs" / "folder.py"
    flag = changes(folder, "", {"train.steps": 7})
    steps = {("train.steps 7",), ("augmentation strong", "train.steps 7")}
    assert changes(folder, "steps=7") == flag == steps
    assert changes(CHEX) == changes(CHEX, "size=32") == {()}


ARGUMENTS = ["chex:preset=paper", "chex:pool=all", "plco:preset=paper", "domain:steps=7",
             "mnist:epochs=7", "synthesis:width=8", "folder:steps=7"]  # fmt: skip


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_two_sweeps_that_differ_in_an_argument_share_no_column(argument):
    name, _, arg = argument.partition(":")
    path = ROOT / "configs" / f"{name}.py"
    assert not changes(path) & changes(path, arg)


def test_a_split_that_follows_the_seed_does_so_in_replicas_and_in_sweeps(monkeypatch, tmp_path):
    """As in Table 2 of Madani et al., which each seed draws anew; all others keep theirs."""
    monkeypatch.setattr(train, "together", lambda configs, *_: configs)
    for name, splits in (("domain", [3, 4]), ("plco", [0, 0])):
        path = ROOT / "configs" / f"{name}.py"
        config = runpy.run_path(str(path))["get_config"]("seed=3")
        config.replicas = 2
        runs = train.run(config, tmp_path)["runs"]
        assert [one.train.seed for one in runs] == [3, 4] and config.train.seed == 3
        assert [one.data.split_seed for one in runs] == splits
    found = sweep.cells(str(ROOT / "configs" / "domain.py"), "", {})
    assert all(cell.config.data.split_seed == cell.values["seed"] for cell in found)
    assert len(sweep.groups(found, together=10)) == 6  # and they still train together
    found = sweep.cells(str(ROOT / "configs" / "domain.py"), "", {"data.split_seed": 5})
    assert {c.config.data.split_seed for c in found} == {5} and found[1].config.train.seed == 1


@pytest.mark.parametrize("where", ["flag", "file"])
def test_replicas_in_a_cell_are_refused_with_the_way_out(where, config):
    overrides = {"replicas": 3} if where == "flag" else {}
    if where == "file":
        Path(config).write_text(
            CONFIG.replace("return config", "config.replicas = 3; return config")
        )
    with pytest.raises(UserError, match="replicas=3.*--together=3"):
        sweep.cells(config, "", overrides)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_has_a_sweep_whose_cells_differ(path):
    found = sweep.cells(str(path), "", {})
    assert len({str(cell.config) for cell in found}) == len(found) >= 2


def test_only_selects_by_value_and_names_what_there_is(config):
    found = sweep.cells(config, "", {})
    assert [c.name for c in sweep.select(found, "labels=6,seed=1")] == ["labels=6,seed=1"]
    assert len(sweep.select(found, "labels=6|5000,seed=0")) == 2
    for only, message in (("label=6", "'labels'"), ("labels=7", "5000"), ("method=ec_gan", "seed")):
        with pytest.raises(UserError, match=message):
            sweep.select(found, only)


@given(st.integers(1, 5), st.integers(1, 4))
def test_every_cell_is_in_one_group_of_one_shard(together, shards):
    found = sweep.cells(str(ROOT / "configs" / "phantom.py"), "", {})
    groups = sweep.groups(found, together)
    parts = [groups[sweep._shard(f"{i}/{shards}")] for i in range(shards)]
    trained = [cell.name for part in parts for group in part for cell in group]
    assert sorted(trained) == sorted(cell.name for cell in found)
    for group in groups:
        assert len(group) <= together and len({c.config.method.name for c in group}) == 1


def test_cells_that_fail_together_fail_for_themselves_alone(config):
    found = sweep.cells(config, "", {})
    trained = []

    def train(group):
        if any(cell.values["labels"] == 5000 for cell in group):
            raise UserError("too many labels")
        trained.extend(cell.name for cell in group)

    failed = list(sweep.run_all([found[1:], found[:1]], train))
    assert trained == ["labels=6,seed=1", "labels=6,seed=2", "labels=6,seed=0"]
    assert [(cell.name, reason) for cell, reason in failed] == [
        ("labels=5000,seed=0", "too many labels"),
        ("labels=5000,seed=1", "too many labels"),
    ]


def test_a_stop_ends_the_sweep(config):
    def train(group):
        raise Stopped("at step 3")

    with pytest.raises(Stopped):
        list(sweep.run_all([[cell] for cell in sweep.cells(config, "", {})], train))


def test_the_command_trains_what_it_can_reports_the_rest_and_goes_on(config, tmp_path, capfd):
    runs = tmp_path / "runs"

    command = [sys.executable, "-m", "ssl_gan_jax.sweep", f"--config={config}"]
    done = subprocess.run(
        [*command, f"--workdir={runs}", "--together=2"],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    code, out = done.returncode, done.stdout + done.stderr
    assert code == 1 and "5 of 5 cells" in out and "Traceback" not in out, out
    assert sum(line.startswith("failed: labels=5000") for line in out.splitlines()) == 2
    done = {path.parent.name: path for path in runs.glob("*/result.json")}
    assert sorted(done) == ["labels=6,seed=0", "labels=6,seed=1", "labels=6,seed=2"]
    row = json.loads(done["labels=6,seed=1"].read_text())
    place = {"method": "supervised", "data": "phantom", "size": 32, "labels": 6, "seed": 1}
    assert row["experiment"] == "tiny" and row["cell"] == place
    assert row["replicas"] == 2 and row["commit"] and "core" in row["machine"]
    assert row["command"].endswith("tiny.py:labels=6,seed=1 --workdir=RUN")

    flags = f"--config={config}", f"--workdir={runs}"
    before = {name: path.stat().st_mtime_ns for name, path in done.items()}
    assert in_process.call("sweep", *flags, "--only=labels=6") == 0
    assert before == {n: p.stat().st_mtime_ns for n, p in done.items()}
    capfd.readouterr()
    assert in_process.call("sweep", *flags, "--dry_run") == 0
    out = capfd.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "labels=" in line] == [
        "finished", "finished", "finished", "to", "to",
    ]  # fmt: skip
    assert in_process.call("sweep", *flags, "--only=labels=7") == 2
