"""A run's folder reads as if training had never stopped, and no file in it is ever half there."""

import io
import json
import re
import time

import numpy as np
import pytest
from PIL import Image

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.files import atomic_write, grid, write_json
from ssl_gan_jax.report.markdown import markdown_table
from ssl_gan_jax.training.progress import Progress
from ssl_gan_jax.training.writer import Writer


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_scalars_are_on_disk_line_by_line(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(10, {"loss": np.float32(0.5), "auroc": None}, "train")
        writer.scalars(20, {"loss": float("nan")})
        assert lines(tmp_path) == [
            {"step": 10, "train/loss": 0.5, "train/auroc": None},
            {"step": 20, "loss": None},
        ]
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_resuming_drops_later_lines_and_a_torn_one(tmp_path):
    with Writer(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, {"loss": step / 10})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 40, "lo')
    with Writer(tmp_path, resume_step=20) as writer:
        assert [line["step"] for line in lines(tmp_path)] == [10, 20]
        writer.scalars(30, {"loss": 3.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


@pytest.mark.parametrize("torn", range(1, 24))
def test_a_line_torn_anywhere_is_removed(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes((b'{"step": 1, "loss": 2.5}\n' * 2)[: 25 + torn])
    with Writer(tmp_path) as writer:
        writer.scalars(2, {})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_starting_anew_drops_all_and_no_step_drops_none(tmp_path):
    for resume, kept in ((None, [1]), (None, [1, 1]), (0, [])):
        with Writer(tmp_path, resume_step=resume) as writer:
            assert [line["step"] for line in lines(tmp_path)] == kept[
                : len(kept) - (resume is None)
            ]
            writer.scalars(1, {})


def test_a_grid_keeps_every_pixel(tmp_path):
    images = np.linspace(-1, 1, 5 * 4 * 6).reshape(5, 4, 6, 1).astype(np.float32)
    sheet = grid(images, columns=3)
    assert sheet.shape == (2 * 4 + 2, 3 * 6 + 2 * 2) and sheet.dtype == np.uint8
    expected = np.rint((images[..., 0] + 1) * 127.5)
    np.testing.assert_array_equal(sheet[:4, :6], expected[0])
    np.testing.assert_array_equal(sheet[6:, 8:14], expected[4])
    assert not sheet[6:, 14:].any() and not sheet[4:6].any() and not sheet[:, 6:8].any()
    assert grid(images, 3, gap=0).shape == (8, 18)
    assert grid(np.full((1, 2, 2, 1), 9.0), 1).tolist() == [[255, 255], [255, 255]]


def test_pictures_are_png_files_named_by_step(tmp_path):
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    with Writer(tmp_path) as writer:
        writer.images(1200, picture)
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["001200.png"]
    np.testing.assert_array_equal(Image.open(tmp_path / "samples" / "001200.png"), picture)


def test_tensorboard_has_scalars_pictures_and_histograms(tmp_path):
    import tensorflow as tf

    with Writer(tmp_path) as writer:
        writer.scalars(3, {"loss": 0.5}, "train")
        writer.images(3, np.zeros((8, 8), np.uint8))
        writer.histograms(3, {"G": {"Dense_0": {"kernel": np.arange(12.0).reshape(3, 4)}}})
    (file,) = tmp_path.glob("events.*")
    events = tf.compat.v1.train.summary_iterator(str(file))
    found = {value.tag: value for event in events for value in event.summary.value}
    assert set(found) == {"train/loss", "samples", "G/Dense_0/kernel"}
    histogram = found["G/Dense_0/kernel"].histo
    assert (histogram.num, histogram.min, histogram.max, histogram.sum) == (12, 0, 11, 66)


def test_markdown_cells_end_no_table_and_make_no_link():
    (table,) = markdown_table(["a|b"], [["<b>[x](y)\nz*"], [0.5]])
    assert table.splitlines() == ["| a\\|b |", "| --- |", "| &lt;b>[x]\\(y) z\\* |", "| 0.5 |"]
    assert markdown_table(["a"], []) == []
    (table,) = markdown_table(["ssl_gan", "_a_ $x$ ~~b~~", "R&D &lt;"], [["lambda_ 0", "", ""]])
    head, _, row = table.splitlines()
    assert (
        head == "| ssl_gan | \\_a\\_ \\$x\\$ \\~\\~b\\~\\~ | R&D &amp;lt; |"
        and "lambda\\_ 0" in row
    )


def test_json_is_replaced_whole_and_holds_no_nan(tmp_path):
    path = tmp_path / "sub" / "result.json"
    write_json(path, {"a": 1})
    for bad in ({"a": float("nan")}, {"a": float("inf")}):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, bad)
    with pytest.raises(RuntimeError, match="midway"), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError("midway")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_several_that_write_one_file_at_once_leave_one_of_theirs_whole(tmp_path):
    path = tmp_path / f"{'名' * 80}.json"  # as long as a file system takes, but for ten bytes
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write("first" * 10_000)
        second.write("second")
    assert path.read_text() == "first" * 10_000  # which ended last
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_not_text_can_be_written(tmp_path):
    with atomic_write(tmp_path / "x") as file:
        file.write(b"a\xff.png".decode("utf-8", "surrogateescape"))
    assert (tmp_path / "x").read_text("utf-8") == "a\\udcff.png"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file.*cannot write"):
        Writer(tmp_path / "file")
    with pytest.raises(UserError, match="file.*cannot write"):
        write_json(tmp_path / "file" / "result.json", {})


def test_plain_progress_is_a_line_per_log_step():
    stream = io.StringIO()
    with Progress(3000, start=0, stream=stream) as progress:
        progress.update(1)
        progress.update(1200, {"L_labeled": 0.21312, "auroc": None})
        progress.update(1201)
    assert re.fullmatch(
        r"step 1200/3000  \d+\.\d steps/s  left 0:00:\d\d  L_labeled 0\.2131\n", stream.getvalue()
    )


def test_the_rate_is_that_of_this_process_without_its_first_step(monkeypatch):
    clock = iter([0.0, 100.0, 110.0])  # made, first step after 100 s of compiling, then 10 s
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = Progress(2000, start=1000, stream=stream)
    progress.update(1001)
    progress.update(1201, {})
    assert stream.getvalue() == "step 1201/2000  20.0 steps/s  left 0:00:39\n"


def test_a_terminal_gets_a_bar_that_ends_as_a_line(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: True
    with Progress(10, stream=stream) as progress:
        for step in range(1, 11):
            progress.update(step, {"loss": 0.5} if step == 10 else None)
    text = stream.getvalue()
    assert "\x1b[" in text and "loss 0.5" in text.splitlines()[-1]
    assert text.splitlines()[-1].split("\x1b[2K")[-1].startswith("step 10/10")
