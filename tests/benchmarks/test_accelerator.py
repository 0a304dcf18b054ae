"""The accelerator script at tiny sizes, on the CPU: without TensorFlow, with rows to report."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssl_gan_jax import report

HERE = Path(__file__).parent
PROGRAM = """
import sys
import accelerator
accelerator.OTHER = {"replicas": (2,), "steps": (2,)}
accelerator.USUAL["batch"] = 8
code = accelerator.main(sys.argv[1:])
assert not {"tensorflow", "tensorflow_datasets", "orbax"} & {*sys.modules}
sys.exit(code)
"""


def test_the_three_parts(tmp_path):
    n = 80
    ill = np.arange(n) % 2
    rng = np.random.default_rng(0)
    text = np.array([f"{i:03d}" for i in range(n)])
    part = np.where(np.arange(n) // 2 % 4 == 3, "test", "")
    np.savez(
        tmp_path / "images.npz",
        image=(rng.integers(0, 100, (n, 16, 16, 1)) + 150 * ill[:, None, None, None]).astype(
            np.uint8
        ),
        label=ill.astype(np.int32),
        patient=text,
        path=text,
        split=part,
        site=np.full(n, ""),
        classes=np.array(["well", "ill"]),
    )
    config = HERE.parents[1] / "configs/few_labels.py"
    options = [
        *(f"--out={tmp_path}", "--only=check,times,tables", "--methods=supervised", "--sizes=16"),
        *("--width=4", f"--data={tmp_path / 'images.npz'}", f"--config={config}:size=16,steps=20"),
        *("--cells=labels=10,method=supervised,seed=0|1", "--together=2"),
        *("--change", "method.width=4", "--change", "train.evaluate_every=10"),
        *("--change", "data.val=0.3"),
    ]
    command = [sys.executable, "-c", PROGRAM, *options]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("check", "times", "tables")
    }
    (checked,) = rows["check"]
    assert checked["agrees"] and 0 < checked["difference"] < 1e-3
    assert [(row["steps"], row["replicas"]) for row in rows["times"]] == [(1, 1), (1, 2), (2, 1)]
    assert all(row["ms"] > 0 and row["program_mb"] > 0 for row in rows["times"])
    found = report.write([tmp_path / "tables.jsonl"], tmp_path)
    assert len(found.runs) == 6 and not found.unreadable  # two seeds of three settings
    weak = [run for run in found.runs if "augmentation strong" not in run.changes]
    assert {run.seed for run in weak} == {0, 1}
    assert all(run.score("auroc").value > 0.9 for run in weak)  # the classes differ in brightness


def test_the_part_that_needs_pytorch(tmp_path):
    pytest.importorskip("torch")
    options = [f"--out={tmp_path}", "--only=twins", "--methods=supervised", "--sizes=32"]
    command = [sys.executable, "accelerator.py", *options, "--width=4"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "twins.jsonl").read_text())
    assert {"ours_tensorfloat32_ms", "ours_bfloat16_ms", "eager_ms", "channels_last_16_ms"} < {*row}
    assert row["torch_over_ours"] > 0
