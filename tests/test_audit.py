"""The audit, trust 22 and 23; its command line in real processes."""

import dataclasses
import io
import json
import runpy
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ssl_gan_jax.commands import audit as audit_command
from ssl_gan_jax.commands import experiment
from ssl_gan_jax.data import audit, images
from ssl_gan_jax.data.index import Metadata
from ssl_gan_jax.data.records import Records

ROOT = Path(__file__).parents[1]


def radiographs(count, side=64):
    """Smooth random pictures, uint8 [N,side,side]."""
    random = np.random.default_rng(0).uniform(0, 255, (count, 8, 8)).astype(np.uint8)
    return [Image.fromarray(image).resize((side, side)) for image in random]


def records_of(pictures, patient, split=None, label=None, site=None):
    n = len(pictures)
    image = [
        images.prepare(np.asarray(p.convert("L"), np.float32) / 255, 32, "hist") for p in pictures
    ]
    return Records(
        image=np.stack(image),
        label=np.zeros(n, np.int32) if label is None else np.array(label, np.int32),
        patient=np.array(patient),
        path=np.array([f"{i}.png" for i in range(n)]),
        split=np.array([""] * n if split is None else split),
        site=np.array([""] * n if site is None else site),
        classes=("normal", "ill"),
        quarantined=(("x.png", "the file is empty"),),
    )


def copies(picture):
    """The same picture as a JPEG, brighter, and half as large."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=50)
    brighter = picture.point(lambda value: 255 * (value / 255) ** 0.7)
    return Image.open(file), brighter, picture.resize((32, 32))


def test_trust_23_duplicates_across_splits():
    pictures = radiographs(40)
    pictures += [pictures[0], *copies(pictures[1])]
    split = np.array(["train"] * 40 + ["test"] * 4)
    label = [0] * 40 + [1, 0, 0, 0]
    found = records_of(pictures, [str(i) for i in range(44)], label=label)
    report, pairs = audit.audit(found, split)
    assert report["exact_duplicates"] == {"across": [["0.png", "40.png"]], "within": []}
    assert report["duplicates_with_different_labels"] == [["0.png", "40.png"]]
    assert report["near_duplicates"]["across"] == [["1.png", f"{i}.png"] for i in (41, 42, 43)]
    assert len(report["near_duplicates"]["within"]) == 3 and len(pairs) == 7
    assert report["leaks"] == 1 and report["unreadable"] == [["x.png", "the file is empty"]]


def test_a_duplicate_outside_of_all_splits_or_without_a_label_hides_no_other():
    split = np.array(["", "train", "test"])
    found = records_of(radiographs(1) * 3, list("abc"), label=[-1, 0, 1])
    report, _ = audit.audit(found, split)
    assert report["exact_duplicates"]["across"] == [["1.png", "2.png"]] and report["leaks"] == 1
    assert report["duplicates_with_different_labels"] == [["1.png", "2.png"]]


def test_different_pictures_and_constant_ones_are_no_duplicates():
    pictures = [*radiographs(200), *[Image.new("L", (64, 64))] * 3]
    report, pairs = audit.audit(
        records_of(pictures, range(203)), np.array(["train", "test"] * 101 + ["val"])
    )
    assert not len(pairs) and not report["leaks"]
    assert report["constant"] == ["200.png", "201.png", "202.png"]


def test_look_alikes_take_bounded_memory_and_those_across_splits_are_kept(monkeypatch):
    monkeypatch.setattr(audit, "NEAR", 30)
    random = np.random.default_rng(0)
    base = np.asarray(radiographs(1)[0], np.int16)[None, :, :, None]
    image = (base + random.integers(-1, 2, (200, 64, 64, 1))).clip(0, 255).astype(np.uint8)
    split = np.array(["train"] * 198 + ["test"] * 2)
    first = audit.first_equal(image)
    pairs, all_of_them = audit.near_pairs(image, np.full(200, True), first, split)
    across = split[pairs[:, 0]] != split[pairs[:, 1]]
    # A row of comparisons may go beyond the limit.
    assert not all_of_them and 30 <= across.sum() < 60 and 30 <= (~across).sum() < 260
    tracemalloc.start()
    audit.near_pairs(np.repeat(image, 5, 0), np.full(1000, True), np.arange(1000), split.repeat(5))
    assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    tracemalloc.stop()


def test_where_no_patients_are_given_none_are_counted():
    found = records_of(radiographs(4), list("abcd"))
    given, not_given = (
        dataclasses.replace(found, metadata=Metadata(by_patient=by)) for by in (True, False)
    )
    said = [
        "\n".join(audit.summary(audit.audit(one, np.array(["train"] * 4))[0]))
        for one in (given, not_given)
    ]
    assert "4 images of 4 patients" in said[0] and "patients" not in said[1].split("the same")[0]


def test_trust_22_a_patient_in_two_splits_is_found_and_not_named():
    found = records_of(radiographs(4), ["Jane", "Jane", "Jane", "Joe"])
    report, _ = audit.audit(found, np.array(["train", "test", "test", "val"]))
    assert report["patients_in_two_splits"] == [["0.png", "1.png"]] and report["leaks"] == 1
    assert report["images_per_patient"] == {"1": 1, "3": 1}
    assert "Jane" not in json.dumps(report) + "".join(audit.summary(report))


def command(data, out, *args):
    call = [sys.executable, "-m", "ssl_gan_jax.audit", "--config=configs/folder.py"]
    call += [f"--config.data.dir={data}", f"--workdir={out}", *args]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_command_line(tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "deep").mkdir(parents=True)
    pictures, rows = radiographs(12), []
    for i, picture in enumerate([*pictures, pictures[3]]):
        picture.save(data / "deep" / f"{i}.png")
        rows.append(f"deep/{i}.png,{'ab'[i % 2]},Jane{i},{'train' if i < 9 else 'test'}\n")
    (data / "deep" / "broken.png").write_bytes(b"no image")
    rows.append("deep/broken.png,a,Joe,train\n")
    (data / "labels.csv").write_text("path,label,patient_id,split\n" + "".join(rows))
    code, said = command(data, out)
    assert code == 1 and "deep/12.png = deep/3.png" in said
    report = json.loads((out / "audit.json").read_text())
    assert report["sizes"] == {"64x64": 13} and report["bits"] == {"8": 13}
    assert report["unreadable"][0][0] == "deep/broken.png"
    assert sum(row["images"] for row in report["counts"]) == 13
    assert Image.open(out / "sheet.png").width > 16 * 32
    assert Image.open(out / "duplicates.png").height >= 32
    assert "Jane" not in said + (out / "audit.json").read_text()

    (data / "deep" / "12.png").unlink()
    (data / "labels.csv").write_text(
        "path,label,patient_id,split\n" + "".join(row for row in rows if "/12" not in row)
    )
    config = runpy.run_path(str(ROOT / "configs" / "folder.py"))["get_config"]()
    config.data.dir = str(data)
    monkeypatch.setattr(experiment, "check", lambda argv: None)
    monkeypatch.setattr(experiment, "JSON", SimpleNamespace(value=False))
    monkeypatch.setattr(audit_command, "CONFIG", SimpleNamespace(value=config))
    monkeypatch.setattr(audit_command, "WORKDIR", SimpleNamespace(value=str(out)))
    assert audit_command.main([]) == 0


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    code, said = command(tmp_path, tmp_path / "out", "--config.data.sise=9")
    assert code == 2 and "did you mean" in said and not (tmp_path / "out").exists()
