"""A path means the file of that name and no other, and is checked before work begins."""

import os
import stat
from pathlib import Path

import pytest

from ssl_gan_jax import paths
from ssl_gan_jax.data import records
from ssl_gan_jax.errors import UserError


@pytest.mark.parametrize("name", ["a b", "[1]", "*", "100%", "#1", "'\"`", "{}", "$HOME", "Röntgen",
                                  "-x", "a\\b", "x~", "~nobody-of-this-name", "n\nl"])  # fmt: skip
def test_every_character_stands_for_itself(name, tmp_path):
    path = paths.output_path(f"{tmp_path}/{name}/run", "--workdir", folder=True)
    assert path == tmp_path / name / "run" and paths.user_path(name, "--out") == Path(name)
    assert not list(tmp_path.iterdir())  # a check makes nothing


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.user_path("~/x", "--out") == tmp_path / "x"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(UserError, match="--out=~/x: there is no home folder"):
        paths.user_path("~/x", "--out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "give the path"),
        ("\udcff", "UTF-8"),
        ("x" * 300, "name too long"),
        ("x" * 253, "too long"),  # with the ending of an unfinished file
        ("/".join(["x" * 200] * 20), "too long"),
        ("file/x", "is a file, no folder"),
        (".", "is a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_at_the_start(name, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError, match=f"(?i)--out=.*{message}"):
        paths.output_path(name, "--out")


def test_a_folder_that_may_not_be_written_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match="cannot be written"):
        paths.output_path(tmp_path / "a" / "b", "--workdir", folder=True)


def test_a_runs_own_files_and_inputs_are_no_results(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "film.png").touch()
    monkeypatch.chdir(tmp_path / "run")
    for own in ("predictions.csv", "../run/result.json", "../link/config.json", "samples",
                "checkpoints/3", "events.out.tfevents.1.host"):  # fmt: skip
        with pytest.raises(UserError, match="belongs to the run"):
            paths.result_path(own, "--out")
    with pytest.raises(UserError, match="files that are read"):
        paths.result_path("../film.png", "--out", [tmp_path / "film.png"])
    for free in ("export", "p.csv", "../predictions.csv", "../samples"):
        assert paths.result_path(free, "--out") == Path(free)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_cache_and_the_folders_above_it_are_made_for_one_user_alone(tmp_path):
    cache = tmp_path / "new" / "cache"
    options = {"images": 8, "site": "A"}
    records.load("phantom", None, 16, cache_dir=cache, **options)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(made) > 5
    for path in made:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


def test_an_open_folder_of_an_earlier_version_is_closed_and_others_stay(tmp_path):
    (tmp_path / "phantom").mkdir()
    for folder in (tmp_path, tmp_path / "phantom"):
        folder.chmod(0o755)
    assert records.cache_folder("phantom", tmp_path) == tmp_path / "phantom"
    assert mode(tmp_path / "phantom") == 0o700 and mode(tmp_path) == 0o755
