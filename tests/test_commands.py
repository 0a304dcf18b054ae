"""Every command in the places where programs break: each ends in one line, or as if nothing were.

The commands are called in this process, as `python -m` would; what a shell sees is tried once.
"""

import csv
import errno
import os
import pkgutil
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import in_process
import numpy as np
import pytest
from PIL import Image
from test_train import small

import ssl_gan_jax
from ssl_gan_jax import train

ROOT = Path(__file__).parents[1]
SMALL = [f"--config={ROOT}/configs/phantom.py:labels=6,method=supervised", "--config.data.size=16",
         "--config.data.options.images=160", "--config.method.width=4", "--config.train.steps=1",
         "--config.train.batch_size=8"]  # fmt: skip
# Arguments: {run} is a finished run, {out} a name that is free, {images} a folder of images.
COMMANDS = {
    "main": [*SMALL, "--workdir={out}", "--json"],
    "sweep": [*SMALL, "--workdir={out}", "--dry_run"],
    "audit": [*SMALL, "--workdir={out}", "--json"],
    "predict": ["--workdir={run}", "{images}", "--out={out}", "--explain={out}s", "--json"],
    "adapt": ["--workdir={run}", "{images}", "--out={out}", "--steps=1"],
    "export": ["--workdir={run}", "--format=stablehlo", "--out={out}"],
    "sample": ["--workdir={run}", "--n=2", "--out={out}", "--neighbours"],
    "calibration": ["--workdir={run}"],
    "card": ["--workdir={run}"],
    "quality": ["--features={run}", "{run}"],
    "report": ["{run}", "--out={out}", "--rows={out}.jsonl"],
}
NEEDS_NO_CACHE = {"sweep", "predict", "adapt", "export", "card", "report"}
WRITES_NOTHING = {"sweep"}  # here
ODD = "a [0-9]* {x} 100% #1 $HOME 'q' \"ü\" -"


def test_these_are_all_commands():
    found = set()
    for module in pkgutil.iter_modules(ssl_gan_jax.__path__):
        file = Path(module.module_finder.path, module.name)
        file = file / "__main__.py" if module.ispkg else file.with_suffix(".py")
        if file.exists() and '__name__ == "__main__"' in file.read_text():
            found.add(module.name)
    assert found - {"__main__"} == set(COMMANDS)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_without_a_name_every_command_is_listed_with_a_line(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ssl_gan_jax", *arguments])
    runpy.run_module("ssl_gan_jax", run_name="__main__")
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:]]
    assert [name for name, _ in lines] == sorted(COMMANDS)
    assert all(sentence.endswith(".") for _, sentence in lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train.run(small("ssl_gan", steps=2), folder / "run")
    (folder / "images").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    return folder


@pytest.fixture
def call(finished, tmp_path, capfd):
    """Calls a command on a copy of the run, in `folder`; its exit code and its complaints."""

    def call(name, folder=tmp_path, stdout=None):
        folder.mkdir(exist_ok=True)
        for part in ("run", "images"):
            shutil.copytree(finished / part, folder / part, dirs_exist_ok=True)
        names = {key: folder / key for key in ("run", "images", "out")}
        args = [arg if arg in SMALL else arg.format(**names) for arg in COMMANDS[name]]
        code = in_process.call(name, *args, stdout=stdout)
        err = capfd.readouterr().err
        assert "Traceback" not in err and "Exception ignored" not in err, err
        return code, re.findall("^error: .*", err, re.M)

    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_any_legal_name_of_a_folder_will_do(name, call, tmp_path):
    assert call(name, tmp_path / ODD) == (0, [])
    assert {path.name for path in tmp_path.iterdir()} == {ODD}
    if name not in WRITES_NOTHING:
        assert not list(tmp_path.rglob("*.tmp"))
    if name == "main":
        assert call(name, tmp_path / ODD) == (0, [])  # and is found again


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_is_gone_ends_a_command_quietly_and_loses_nothing(name, call, tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        code, errors = call(name, stdout=gone)
    assert errors == [] and code == 128 + signal.SIGPIPE
    if name == "predict":
        with open(tmp_path / "out", newline="") as file:
            assert len(list(csv.DictReader(file))) == 2
    if name == "main":
        assert (tmp_path / "out" / "result.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("name", ["card", "predict", "sweep"])
def test_output_into_a_full_file_is_one_line(name, call):
    with open("/dev/full", "w") as full:
        code, errors = call(name, stdout=full)
    assert code == 2 and len(errors) == 1 and "No space left" in errors[0]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - WRITES_NOTHING))
def test_a_disk_that_takes_no_more_is_one_line(name, number, call, finished, monkeypatch, tmp_path):
    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    code, errors = call(name)
    assert code == 2 and len(errors) == 1 and os.strerror(number) in errors[0], errors
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "out" / "result.json").exists()
    assert list(contents(tmp_path / "run").values()) == list(contents(finished / "run").values())


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_home_folder_what_needs_no_cache_runs(name, call, monkeypatch):
    for variable in ("HOME", "SSL_GAN_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    code, errors = call(name)
    if name in NEEDS_NO_CACHE:
        assert (code, errors) == (0, [])
    else:
        assert code == 2 and len(errors) == 1 and "SSL_GAN_JAX_CACHE" in errors[0]


@pytest.mark.parametrize("command", ["main --help", "predict --workdir={run} {images} --json"])
def test_a_pipe_into_head_is_as_with_other_programs(command, finished, tmp_path):
    names = {key: finished / key for key in ("run", "images")}
    python = f"{sys.executable} -m ssl_gan_jax.{command.format(**names)}"
    shell = f"{python} | head -c 1; echo ' '${{PIPESTATUS[0]}}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert not re.search("Traceback|Exception|error: ", done.stderr), done.stderr
    assert int(done.stdout.split()[-1]) in (0, 1, 128 + signal.SIGPIPE)


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "ssl_gan_jax.report",
        str(ROOT / "configs/results/domain.jsonl"),
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "gpux"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: JAX_PLATFORMS=gpux: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_stays_with_a_program_that_did_not_choose_otherwise():
    program = """
import numpy as np
from ssl_gan_jax.commands.jax_setup import tune_malloc
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
tune_malloc()
before = resident()
np.ones(2**23)  # 64 MB, freed at once
print(resident() - before > 2**25)
"""
    said = {}
    for tunables in ("glibc.malloc.hugetlb=1", ""):
        command = [sys.executable, "-c", program]
        environment = os.environ | {"GLIBC_TUNABLES": tunables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        said[tunables] = done.stdout.strip()
    assert said == {"glibc.malloc.hugetlb=1": "True", "": "False"}
