"""The command line as a user meets it: real processes."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import in_process
import pytest
from absl import flags
from absl.testing import flagsaver

from ssl_gan_jax.commands import experiment
from ssl_gan_jax.commands.origins import origins_of_config
from ssl_gan_jax.errors import UserError

ROOT = Path(__file__).parents[1]
SMALL = [  # a teacher and two streams of images, and less to compile than a GAN
    "--config=configs/phantom.py:labels=6,method=mean_teacher",
    "--config.data.size=16",
    "--config.data.options.images=160",
    "--config.method.width=4",
    "--config.train.batch_size=8",
    "--config.train.unlabeled_batch_size=8",
]


def start(*args, out=subprocess.PIPE):
    return subprocess.Popen(
        [sys.executable, "-m", "ssl_gan_jax.main", *map(str, args)],
        cwd=ROOT,
        stdout=out,
        stderr=subprocess.STDOUT,
        text=True,
    )


def call(*args):
    process = start(*args)
    out, _ = process.communicate(timeout=240)
    return process.returncode, out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config=configs/chex.py:metod=ec_gan"], "did you mean 'method'"),
        (["--config=configs/chex.py:method=ec_gam"], "did you mean 'ec_gan'"),
        (["--config=configs/chex.py:images=many"], "images=<int>"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=configs/chex.py", "--config.method.tua=0.8"], "did you mean 'method.tau'?"),
        (["--config=configs/chex.py", "--config.train.steps=soon"], "train.steps"),
        (["--config.method.tau=0.8"], "--config is missing"),
        ([], "--config is missing"),
        (["--config=configs/chex.py", "--config.data.dir=nowhere"], "nowhere"),
        (["--config=configs/plco.py", "--config.data.dir=nowhere"], "CDAS"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    code = in_process.call("main", *args, f"--workdir={tmp_path / 'run'}")
    check_refused(code, "".join(capfd.readouterr()), message, tmp_path)


def test_bad_input_of_a_real_process_is_one_line_and_exit_code_2(tmp_path):
    config = ["--config=configs/chex.py", "--config.data.dir=nowhere"]
    check_refused(*call(*config, f"--workdir={tmp_path / 'run'}"), "nowhere", tmp_path)


def check_refused(code, out, message, folder):
    lines = [line for line in out.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and message in lines[0], out
    assert "Traceback" not in out and not (folder / "run").exists()


def test_help_shows_how_to_start():
    code, out = call("--help")
    assert "--config=configs/phantom.py --workdir=runs/phantom" in out and "--workdir" in out


def test_every_value_of_the_config_says_where_it_comes_from(tmp_path):
    config = "--config=configs/phantom.py:labels=6,method=supervised"
    code, out = call(config, "--config.method.lr=0.5", "--config.data.options.view=PA",
                     f"--workdir={tmp_path}", "--show_config", "--json")  # fmt: skip
    shown = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert code == 0 and not list(tmp_path.iterdir())
    for key, value, origin in (
        ("method.lr", 0.5, "flag"),
        ("data.options.view", "PA", "flag"),  # in no config before
        ("method.name", "supervised", "argument"),
        ("data.labels_per_class", 6, "argument"),
        ("data.name", "phantom", "file"),
        ("train.batch_size", 32, "file"),
        ("method.ema", 0.995, "default"),
        ("train.log_every", 50, "default"),
    ):
        assert shown[key] == {"value": value, "from": origin}, key


def test_steps_that_are_given_hold_where_a_file_counts_in_epochs(monkeypatch):
    def parsed(*args):
        argv = ["main", f"--config={ROOT}/configs/chex.py", *args]
        monkeypatch.setattr("sys.argv", argv)  # where keys of a config are looked for
        with flagsaver.flagsaver():
            flags.FLAGS.unparse_flags()
            experiment.parse(argv)
            return experiment.CONFIG.value.train.to_dict(), origins_of_config()

    train, origins = parsed("--config.train.steps=500")
    assert (train["epochs"], train["steps"]) == (0, 500)
    assert origins["train.steps"] == (500, "flag")
    train, origins = parsed()
    assert train["epochs"] == 100 and origins["train.steps"] == (None, "train.epochs")
    assert parsed("--config.train.steps=500", "--config.train.epochs=0")[0]["steps"] == 500
    with pytest.raises(UserError, match="both given"):
        parsed("--config.train.steps=500", "--config.train.epochs=2")


SCHEDULE = [
    "--config.train.steps=30",
    "--config.train.checkpoint_every=10",
    "--config.train.log_every=7",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    config = f"--config={ROOT}/{SMALL[0].partition('=')[2]}"
    assert in_process.call("main", config, *SMALL[1:], *SCHEDULE, f"--workdir={folder}") == 0
    return folder


def test_killed_and_stopped_and_started_again_is_as_if_nothing_had_happened(whole, tmp_path):
    broken = tmp_path / "broken"
    args = [*SMALL, *SCHEDULE, f"--workdir={broken}"]

    def interrupted(number, once):
        process = start(*args)
        deadline = time.monotonic() + 200
        while not once() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, number)
        out, _ = process.communicate(timeout=60)
        assert not (broken / "result.json").exists(), out
        return process.returncode, out

    def lines():
        path = broken / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    interrupted(signal.SIGKILL, lambda: list(broken.glob("checkpoints/10/manifest.json")))
    before = lines()
    code, out = interrupted(signal.SIGTERM, lambda: lines() > before)
    assert code == 0 and "stopped and saved at step" in out and "Traceback" not in out, out
    stopped = int(out.partition("saved at step ")[2].split()[0])
    code, out = call(*args)
    assert code == 0 and f"steps {stopped}-30" in out and stopped < 30, out
    a, b = (json.loads((d / "result.json").read_text()) for d in (whole, broken))
    assert {**a, "wall_s": 0} == {**b, "wall_s": 0}
    assert (whole / "metrics.jsonl").read_text() == (broken / "metrics.jsonl").read_text()
    assert (whole / "predictions.csv").read_text() == (broken / "predictions.csv").read_text()


def test_replicas_leave_the_folders_of_single_runs(whole, tmp_path):
    """On a device each, with several steps a call: to rounding what each seed gives alone."""
    args = [*SMALL, *SCHEDULE, "--config.replicas=2", "--config.train.steps_per_call=3"]
    code, out = call(*args, f"--workdir={tmp_path}")
    assert code == 0 and "seed 1, test" in out, out
    folder = tmp_path / "seed_0"
    a, b = ((d / "metrics.jsonl").read_text().splitlines() for d in (folder, whole))
    assert len(a) == len(b) and json.loads(a[0]) == pytest.approx(json.loads(b[0]), rel=1e-2)
    (folder / "result.json").unlink()  # one of them goes on, and finds itself at the end
    code, out = call(*args, f"--workdir={tmp_path}")
    assert code == 0 and out.count("is finished") == 1 and "steps 30-30" in out, out


def on_terminal(*args):
    """The exit code, and what a terminal shows."""
    ours, theirs = pty.openpty()
    process = start(*args, out=theirs)
    os.close(theirs)
    shown = b""
    with open(ours, "rb", 0) as terminal, contextlib.suppress(OSError):  # Linux raises at the end
        while part := terminal.read(4096):
            shown += part
    return process.wait(), shown.decode()


def test_a_first_run_says_what_it_waits_for_and_keeps_its_programs(tmp_path, monkeypatch):
    """On a terminal, which shows one bar, and lines of the log above it."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("SSL_GAN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    config = SMALL[0].replace("mean_teacher", "supervised")  # the least to compile
    args = [config, *SMALL[1:5], "--config.train.steps=4", "--config.train.log_every=1",
            "--config.train.evaluate_every=2", f"--workdir={tmp_path / 'run'}"]  # fmt: skip
    code, out = on_terminal(*args)
    lines = [re.sub(r"\x1b\[[\d;?]*\w", "", line) for line in re.split(r"[\r\n]+", out)]
    waits = [line for line in lines if re.match("Loading Tens|Preparing the|Compiling the", line)]
    assert [line.split()[0] for line in waits] == ["Loading", "Preparing", "Compiling"], out
    assert "once" in waits[1]
    (last,) = (line for line in lines if line.startswith("step "))
    assert re.fullmatch(r"step 4/4  \S+ steps/s  left 0:00:00  L_s \S+  val_auroc \S+", last), out
    kept = tmp_path / "cache" / "jax"
    assert code == 0 and any(kept.iterdir()) and kept.stat().st_mode & 0o077 == 0, out


def test_a_folder_of_ones_own(tmp_path, capfd):
    """Sub-folders of classes and of unlabelled images, with progress on plain lines."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for folder, n, bright in (("ill", 20, 60), ("well", 20, 0), ("unlabeled", 15, 30)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 190, (40, 36), dtype=np.uint8) + bright
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / folder / f"{i}.png")
    code = in_process.call(
        "main",
        f"--config={ROOT}/configs/folder.py:steps=4,size=16",
        f"--config.data.dir={tmp_path / 'data'}",
        *SMALL[3:],
        "--config.train.log_every=2",
        f"--workdir={tmp_path / 'run'}",
    )
    assert code == 0 and "step 4/4" in capfd.readouterr().err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["classes"] == ["well", "ill"] and result["unlabelled"] > result["labelled"]
