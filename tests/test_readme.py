"""The README keeps its word: its commands run as they stand there, and so does its Python."""

import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_train import small

from ssl_gan_jax import methods, report, train
from ssl_gan_jax.data import sources
from ssl_gan_jax.report import tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]

# Appended to trainings, so that they take seconds.
SMALL = (
    "--config.data.size=16 --config.method.width=4 --config.method.reference_size=4 "
    "--config.train.steps=2 "
    "--config.train.batch_size=8 --config.train.unlabeled_batch_size=8"
)
PHANTOM = "--config.data.options.images=160"
# What is not run here as it stands, and why; a value is appended and the command is run.
INSTEAD = {
    "pip install": None,  # CI's own first step
    "git clone": None,
    "pytest": None,
    "tests/benchmarks": None,  # an hour; tests/benchmarks has tests of its own
    "launch/": None,  # tests/launch
    "data=kermany": "--dry_run",  # absent data
    "chex.py": "--show_config",  # absent data
}


def commands():
    """Every command of the README: of its blocks without a language, and between backticks."""
    lines = [
        command.partition(" #")[0].strip()
        for language, text in BLOCKS
        if not language
        for line in text.replace("\\\n", " ").splitlines()
        for command in line.split("&&")
    ]
    inline = re.findall(
        r"`(python (?:-m|tests|launch)[^`]*)`", re.sub(r"```.*?```", "", README, flags=re.S)
    )
    found = [" ".join(c.split()) for c in lines + inline]
    return [c for c in found if c.startswith(("python ", "pip ", "git ", "pytest"))]


def test_every_program_of_the_readme_comes_with_its_installation():
    """What stands before the first flag, in its blocks and between backticks."""
    inline = re.findall(r"`([a-z][\w.]*) [^`\n]*--", re.sub(r"```.*?```", "", README, flags=re.S))
    programs = {command.split()[0] for command in commands()} | set(inline)
    assert {"python", "pip", "tensorboard"} <= programs
    for program in programs - {"git"}:
        beside = Path(sys.executable).with_name(program)
        assert beside.exists() or shutil.which(program), program


@pytest.fixture
def place(tmp_path):
    """A folder to type the commands in, with images of one's own."""
    top = tmp_path
    (top / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    (top / "DIR").mkdir()
    for i in range(60):
        bright = 60 * (i % 2)
        pixels = rng.integers(0, 190, (40, 36), dtype=np.uint8) + np.uint8(bright)
        Image.fromarray(pixels).save(top / "DIR" / f"{i}.png")
        split = ("train", "val", "test")[i % 30 // 10]
        lines.append(f"{i}.png,{('well', 'ill')[i % 2] if i < 30 else ''},{split}")
    (top / "DIR" / "labels.csv").write_text("\n".join(lines))
    (top / "list.txt").write_text("DIR/0.png\nDIR/1.png\n")
    return top


def called(command, place, monkeypatch):
    """The exit code of one command, in `place`: commands with absl's flags as processes."""
    args = shlex.split(command)[1:]
    absl = args[1] in ("ssl_gan_jax.main", "ssl_gan_jax.sweep", "ssl_gan_jax.audit")
    if absl:
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        env = os.environ | {"PYTHONPATH": path}
        done = subprocess.run([sys.executable, *args], cwd=place, env=env, timeout=240)
        return done.returncode
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", args[1:])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    return end.value.code


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.timeout(600)
def test_every_command_of_the_readme_runs(place, monkeypatch, capfd):
    """In its order, so that later ones find what earlier ones left."""
    found = commands()
    assert len(found) > 20 and {c.split()[2] for c in found if c.startswith("python -m")} >= {
        f"ssl_gan_jax.{name}"
        for name in ("main", "sweep", "report", "quality", "audit", "predict", "export", "sample",
                     "calibration", "card")
    }  # fmt: skip
    for command in found:
        key = next((key for key in INSTEAD if key in command), None)
        if key and INSTEAD[key] is None:
            continue
        command = f"{command} {INSTEAD[key]}" if key else command
        if "ssl_gan_jax.main" in command and not key:
            command += f" {SMALL} {PHANTOM if 'phantom' in command else ''}"
        for word, real in {
            "--config=...": "--config=configs/folder.py",
            "=OUT": "=audit",
            "--config.data.dir=...": "--config.data.dir=DIR",
            "REFERENCE": "RUN",
            "RUN...": "RUN",
            "IMAGES": "DIR",
            "runs/plco": "RUN",
            "RUN": "runs/phantom",  # whose first command is the first of all
            "configs/results/plco.jsonl": "rows.jsonl",
            "configs/results/*.jsonl": "configs/results/chex.jsonl --out=.",
        }.items():
            command = command.replace(word, real)
        assert called(command, place, monkeypatch) == 0, f"{command}\n{capfd.readouterr()}"
    left = {str(path.relative_to(place)) for path in place.rglob("*")}
    assert left >= {
        "runs/phantom/report.html",
        "runs/phantom/MODEL_CARD.md",
        "runs/phantom/export/model.stablehlo",
        "runs/phantom/quality.json",
        "runs/mine/report.html",
        "samples/neighbours.csv",
        "rows.jsonl",
    }
    assert len(list((place / "overlays").iterdir())) == 60
    assert len((place / "predictions.csv").read_text().splitlines()) == 61
    result = json.loads((place / "runs/mine/result.json").read_text())
    assert result["classes"] == ["well", "ill"] and result["labelled"] == 10
    names = {"pixels": np.zeros((3, 16, 16, 1), np.uint8)}
    exec(PYTHON[2].replace('"RUN"', '"runs/phantom"'), names)
    assert names["answer"].probability.shape == (3, 2) and names["answer"].ood.shape == (3,)


LIBRARY = """
import jax, numpy as np, ssl_gan_jax
rng, defaults = np.random.default_rng(0), ssl_gan_jax.defaults
def small(name):
    config = defaults(name)
    config.update(size=16, width=4, reference_size=4)
    return config
ssl_gan_jax.defaults = small
images, unlabelled = (rng.uniform(-1, 1, (n, 16, 16, 1)).astype(np.float32) for n in (12, 40))
labels = np.arange(12, dtype=np.int32) % 2
"""


def test_the_training_loop_of_the_readme_and_its_seeds_on_two_devices():
    code = LIBRARY + PYTHON[0].replace("range(1000)", "range(2)") + PYTHON[1]
    code += (
        "print(probability.shape, int(state.step), states.step.tolist(), 'L_labeled' in metrics)"
    )
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split("\n")[-2] == "(12, 2) 2 [1, 1] True", done.stderr


def test_the_data_set_and_the_method_of_the_readme_train(tmp_path, monkeypatch):
    """Each file where its first line says, in packages that are extended for this test."""
    for package, code in ((sources, PYTHON[3]), (methods, PYTHON[4])):
        name = package.__name__.replace(".", "/")
        path = tmp_path / code.split("\n")[0].removeprefix("# ").partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
    (tmp_path / "ssl_gan_jax/data/sources/mine/__init__.py").touch()
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for i in range(120):
        pixels = rng.integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}-{('ill', 'well')[i % 2]}-pa.png")
    config = small("smoothed", data="mine", **{"data.dir": str(folder)})
    result = train.run(config, tmp_path / "run")
    assert result["method"] == "smoothed" and result["classes"] == ["well", "ill"]
    assert 0 <= result["test"]["auroc"]["value"] <= 1 and result["labelled"] == 12


RESULTS = README.partition("## Results")[2].partition("\n## ")[0]
INTERVAL = r"[+-]?\.\d{3} \[-?\.\d{3}, -?\.\d{3}\]"


def intervals(text):
    """As in ".822 [.700, .930]", each of a text."""
    return re.findall(INTERVAL, text)


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The runs of the committed rows, and what `report` says of them."""
    out = tmp_path_factory.mktemp("report")
    runs = report.write(sorted((ROOT / "configs/results").glob("*.jsonl")), out).runs
    return runs, (out / "report.md").read_text()


def in_sections(text):
    """{title in lower case: section} of a report."""
    return {part.partition("\n")[0].lower(): part for part in f"\n{text}".split("\n## ")[1:]}


def test_every_interval_of_the_results_is_of_its_experiments_rows(committed):
    runs, told = committed

    def kermany(method, labels, *changes):
        cell = "plco", "kermany", "test", method, f"{labels} a class", changes
        return [
            r for r in runs if (*r.panel[:2], r.part, r.method, str(r.budget), r.changes) == cell
        ]

    hundred = kermany("supervised", 100)
    across = "\n## plco\n"  # budgets, which no table of a report is
    for changes in ((), ("consistency 1.0",)):
        across += tables.difference_cell(kermany("ssl_gan", 10, *changes), hundred, "auroc")
    given = [*in_sections(told).items(), *in_sections(across).items()]
    _, *parts = re.split(r"configs/(?=\w+\.py)", " ".join(RESULTS.split()))
    checked = 0
    for part in parts:
        name = part.partition(".")[0]
        ours = {x for title, text in given if title.startswith(name) for x in intervals(text)}
        stated = intervals(part)
        assert set(stated) <= ours, (name, set(stated) - ours)
        checked += len(stated)
    assert checked > 80


def markdown_tables(text):
    """(what stands before it, {column: cell} of each row) of every table."""
    for table in re.finditer(r"(?:^\|.*\n)+", text, re.M):
        head, _, *lines = ([c.strip() for c in x.split("|")[1:-1]] for x in table[0].splitlines())
        yield text[: table.start()], [dict(zip(head, line, strict=True)) for line in lines]


def cells_of(report):
    """{(section, labels, column, metric): intervals}, of test images; differences are "a - b"."""
    found = {}
    for title, section in in_sections(report).items():
        for before, lines in markdown_tables(section):
            *_, table = re.findall(r"\*\*(.+)\*\*", before)
            for line in lines if "test images" in table else ():
                for column, cell in line.items():
                    name, metric = column, table.partition(",")[0]
                    if table.startswith("Difference"):
                        to = (
                            line.get("baseline") or re.match("Difference to (.+), paired", table)[1]
                        )
                        name, metric = f"{line['method']} - {to}", column
                    key = title, line["labels"].split()[0], name, metric.lower()
                    found[key] = intervals(cell)
    return found


def test_every_cell_of_the_results_stands_under_its_method_budget_and_metric(committed):
    ours, checked = cells_of(committed[1]), 0
    for before, lines in markdown_tables(RESULTS):
        config = re.findall(r"configs/(\w+)\.py", before)[-1]
        said = before.rstrip().rpartition("\n\n")[2] + " ".join(lines[0])
        metrics = list(dict.fromkeys(re.findall("auroc|accuracy", said.lower())))
        for line in lines:
            row, *_ = line.values()
            where = row.lower() if config == "domain" else ""
            for column, cell in line.items():
                if not (name := re.match(r"`(\w+)`( - `\w+`)?", column)) or cell == "–":
                    continue
                for stated, metric in zip(intervals(cell), metrics, strict=False):
                    labels, name_there = "all" if where else row, name[0].replace("`", "")
                    found = [
                        texts
                        for (section, *rest), texts in ours.items()
                        if section.startswith(config) and where in section
                        and "64x64" not in section and rest == [labels, name_there, metric]
                    ]  # fmt: skip
                    assert [stated] in found, (config, row, column, cell, metric)
                    checked += 1
    assert checked > 60


MODULES = "audit calibration card export main predict quality sample sweep"


@pytest.mark.parametrize("name", ["report.__main__", *(f"commands.{n}" for n in MODULES.split())])
def test_every_module_says_how_it_is_called_and_how_it_ends(name):
    """What --help prints: argparse's text, or with absl's flags the docstring."""
    module = importlib.import_module(f"ssl_gan_jax.{name}")
    text = module.PARSER.format_help() if hasattr(module, "PARSER") else module.__doc__
    assert f"    python -m ssl_gan_jax.{re.sub('commands.|.__main__', '', name)} " in text
    assert re.search(r"Exit\s+codes: 0 ", text)
