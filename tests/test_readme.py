"""The READMEs keep their word: commands and Python run as they stand, numbers are the rows'."""

import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import in_process
import numpy as np
import pytest
from PIL import Image
from test_train import small

from ssl_gan_jax import methods, report, train
from ssl_gan_jax.data import sources
from ssl_gan_jax.report import tables

ROOT = Path(__file__).parents[1]
# In the order in which a reader meets them, and their commands run.
PAGES = ("", "ssl_gan_jax", "ssl_gan_jax/data", "configs/results", "tests/benchmarks", "launch")
TEXTS = {folder: (ROOT / folder / "README.md").read_text() for folder in PAGES}


class Block(NamedTuple):
    """Code between fences: ```LANGUAGE title=TITLE"""

    language: str
    title: str
    code: str


BLOCKS = [
    Block(*found)
    for text in TEXTS.values()
    for found in re.findall(r"^```(\w*)(?: title=(\S+))?\n(.*?)^```", text, re.M | re.S)
]
PYTHON = {block.title: block.code for block in BLOCKS if block.language == "python"}
SMOOTHED = "ssl_gan_jax/methods/smoothed.py"
MINE = "ssl_gan_jax/data/sources/mine.py"
PROSE = re.sub(r"^```.*?^```", "", "\n".join(TEXTS.values()), flags=re.S | re.M)

# Appended to trainings, so that they take seconds.
SMALL = (
    "--config.data.size=16 --config.method.width=4 --config.train.steps=2 "
    "--config.train.batch_size=8 --config.train.unlabeled_batch_size=8"
)
PHANTOM = "--config.data.options.images=160"
ABSENT = ("pip ", "pytest")  # CI's own first step, and this


class Command(NamedTuple):
    """A command line, and what the page says that it needs: "" if any reader can run it."""

    line: str
    needs: str


def commands():
    """Every command of the READMEs: of their bash blocks, and between backticks."""
    lines = [
        line
        for block in BLOCKS
        if block.language == "bash"
        for line in block.code.replace("\\\n", " ").splitlines()
    ]
    found = {}
    for line in lines + re.findall(r"`(python (?:-m|tests|launch)[^`]*)`", PROSE):
        every, _, needs = line.partition("  # needs ")
        for command in every.split(" && "):
            found[" ".join(command.split())] = needs
    return [Command(*item) for item in found.items()]


def test_all_pages_are_tested():
    pages = {path.parent for path in ROOT.glob("*/**/README.md")} | {ROOT}
    hidden = {p for p in pages if any(x.startswith(".") for x in p.relative_to(ROOT).parts)}
    assert pages - hidden == {ROOT / folder for folder in PAGES}


def test_every_link_leads_somewhere():
    def anchors(text):
        titles = re.findall(r"^#+ (.+)", text, re.M)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    for folder, text in TEXTS.items():
        links = re.findall(r"\]\(([^)\s]+)\)", text)
        assert links or folder == "tests/benchmarks"
        for link in links:
            if link.startswith("https://"):
                continue
            path, _, anchor = link.partition("#")
            target = (ROOT / folder / (path or "README.md")).resolve()
            assert target.exists() and target.is_relative_to(ROOT), (folder, link)
            assert not anchor or anchor in anchors(target.read_text()), (folder, link)


def test_readme_can_be_read_in_a_minute_and_its_pictures_load_quickly():
    assert len(TEXTS[""].encode()) < 9000 and len(TEXTS[""].splitlines()) <= 200
    for folder, text in TEXTS.items():
        for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text):
            assert (ROOT / folder / picture).stat().st_size < 200_000, picture


def test_every_program_comes_with_its_installation():
    """The first word of each command, in blocks and between backticks."""
    inline = re.findall(r"`([a-z][\w.]*) [^`\n]*--", PROSE)
    programs = {command.line.split()[0] for command in commands()} | set(inline)
    assert {"python", "pip", "tensorboard"} <= programs
    for program in programs:
        beside = Path(sys.executable).with_name(program)
        assert beside.exists() or shutil.which(program), program


@pytest.fixture
def place(tmp_path):
    """A folder to type the commands in, with images of one's own."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    (tmp_path / "xrays").mkdir()
    for i in range(60):
        bright = 60 * (i % 2)
        pixels = rng.integers(0, 190, (40, 36), dtype=np.uint8) + np.uint8(bright)
        Image.fromarray(pixels).save(tmp_path / "xrays" / f"{i}.png")
        split = ("train", "val", "test")[i % 30 // 10]
        lines.append(f"{i}.png,{('well', 'ill')[i % 2] if i < 30 else ''},{split}")
    (tmp_path / "xrays" / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "list.txt").write_text("xrays/0.png\nxrays/1.png\n")
    return tmp_path


def called(command, place, monkeypatch):
    """The exit code of one command, in `place`: scripts as processes."""
    args = shlex.split(command)[1:]
    if args[0] != "-m":
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        env = os.environ | {"PYTHONPATH": path}
        done = subprocess.run([sys.executable, *args], cwd=place, env=env, timeout=240)
        return done.returncode
    monkeypatch.chdir(place)
    if (name := args[1].rpartition(".")[2]) in {"main", "sweep", "audit"}:
        return in_process.call(name, *args[2:])  # their flags can be defined once
    monkeypatch.setattr("sys.argv", args[1:])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    return end.value.code


def shortened(command):
    """The line that is run for a command, which takes seconds; "": none, for what it needs."""
    line = command.line.replace("configs/results/*.jsonl", "configs/results/chex.jsonl")
    if command.needs:
        instead = {"ssl_gan_jax.main": "--show_config", "ssl_gan_jax.sweep": "--dry_run"}
        return next((f"{line} {flag}" for name, flag in instead.items() if name in line), "")
    if line.startswith(ABSENT):
        return ""
    if "ssl_gan_jax.main" in line and "render" not in line and "--show_config" not in line:
        return f"{line} {SMALL} {PHANTOM if 'phantom' in line else ''}"
    return line


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.timeout(600)
def test_every_command_runs(place, monkeypatch, capfd):
    """In their order, so that later ones find what earlier ones left."""
    lines = list(filter(None, map(shortened, commands())))
    assert {line.split()[2] for line in lines if line.startswith("python -m")} >= {
        f"ssl_gan_jax.{name}" for name in (*MODULES.split(), "report")
    }
    for line in lines:
        assert called(line, place, monkeypatch) == 0, f"{line}\n{capfd.readouterr()}"
    left = {str(path.relative_to(place)) for path in place.rglob("*")}
    assert left >= {
        "runs/phantom/report.html",
        "runs/phantom/MODEL_CARD.md",
        "runs/phantom/export/model.stablehlo",
        "runs/phantom/quality.json",
        "runs/phantom/rows.jsonl",
        "runs/mine/report.html",
        "runs/rehearsal/result.json",
        "runs/tables/report.md",
        "samples/neighbours.csv",
    }
    assert len(list((place / "overlays").iterdir())) == 60
    assert len((place / "predictions.csv").read_text().splitlines()) == 61
    result = json.loads((place / "runs/mine/result.json").read_text())
    assert result["classes"] == ["well", "ill"] and result["labelled"] == 10
    names = {"pixels": np.zeros((3, 16, 16, 1), np.uint8)}
    exec(PYTHON["finished"], names)
    assert names["answer"].probability.shape == (3, 2) and names["answer"].ood.shape == (3,)


def test_commands_that_need_more_say_what_and_are_there():
    needy = [command for command in commands() if command.needs]
    assert len(needy) > 5
    for command in needy:
        program = command.line.split()[1]
        assert program == "-m" or (ROOT / program).is_file(), command


def script(path):
    """The module of a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_learning_curve_is_still_drawn_from_the_rows():
    drawn = script(ROOT / "tests/benchmarks/pictures.py").learning_curve()
    assert b"<svg" in drawn and b"ssl_gan" in drawn and len(drawn) < 200_000


def test_every_variable_of_a_recipe_is_listed_with_its_default():
    render = script(ROOT / "launch/render.py")
    for recipe, (file, _) in render.RECIPES.items():
        _, _, section = TEXTS["launch"].partition(f"render.py {recipe} ")
        _, lines = next(markdown_tables(section))
        listed = {line["variable"].strip("`"): line["default"].strip("`") for line in lines}
        there = render.variables((render.TEMPLATES / file).read_text())
        assert listed == {k: v or "must be given" for k, v in there.items()}, recipe


LIBRARY = """
import jax, numpy as np, ssl_gan_jax
rng, defaults = np.random.default_rng(0), ssl_gan_jax.defaults
def small(name):
    config = defaults(name)
    config.update(size=16, width=4, reference_size=4)
    return config
ssl_gan_jax.defaults = small
images, unlabeled = (rng.uniform(-1, 1, (n, 16, 16, 1)).astype(np.float32) for n in (12, 40))
labels = np.arange(12, dtype=np.int32) % 2
"""


def test_the_training_loop_and_its_seeds_on_two_devices():
    code = LIBRARY + PYTHON["loop"].replace("range(1000)", "range(2)") + PYTHON["seeds"]
    code += "print(logits.shape, int(state.step), states.step.tolist(), 'L_labeled' in metrics)"
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split("\n")[-2] == "(12, 2) 2 [1, 1] True", done.stderr


def test_the_data_set_the_network_and_the_method_train(tmp_path, monkeypatch):
    """Each file at its title, in packages that are extended for this test."""
    standard = "Discriminator(config.num_classes, config.width)"
    assert standard in PYTHON[SMOOTHED] and standard in TEXTS["ssl_gan_jax"]
    net = PYTHON["network"] + PYTHON[SMOOTHED].replace("Discriminator(", "Net(")
    files = {
        MINE: PYTHON[MINE],
        SMOOTHED: PYTHON[SMOOTHED],
        SMOOTHED.replace("smoothed", "own_net"): net,
    }
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    for package in (sources, methods):
        folder = str(tmp_path / package.__name__.replace(".", "/"))
        monkeypatch.setattr(package, "__path__", [*package.__path__, folder])
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for i in range(120):
        pixels = rng.integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}-{('ill', 'well')[i % 2]}-pa.png")
    for method in ("smoothed", "own_net"):
        config = small(method, data="mine", **{"data.dir": str(folder)})
        result = train.run(config, tmp_path / method)
        assert result["method"] == method and result["classes"] == ["well", "ill"]
        assert 0 <= result["test"]["auroc"]["value"] <= 1 and result["labelled"] == 12


RESULTS = TEXTS["configs/results"]
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
    runs, text = committed

    def kermany(method, labels, *changes):
        cell = "plco", "kermany", "test", method, f"{labels} a class", changes
        return [
            r for r in runs if (*r.panel[:2], r.part, r.method, str(r.budget), r.changes) == cell
        ]

    hundred = kermany("supervised", 100)
    across = "\n## plco\n"  # budgets, which no table of a report is
    for changes in ((), ("consistency 1.0",)):
        across += tables.difference_cell(kermany("ssl_gan", 10, *changes), hundred, "auroc")
    given = [*in_sections(text).items(), *in_sections(across).items()]
    begins = r"(?:configs/|benchmarks/(?=transfer))(?=\w+\.py)"
    _, *parts = re.split(begins, " ".join((TEXTS[""] + RESULTS).split()))
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
        config = (re.findall(r"configs/(\w+)\.py", before) or [""])[-1]
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


MODULES = "adapt audit calibration card export main predict quality sample sweep"


@pytest.mark.parametrize("name", ["report.__main__", *(f"commands.{n}" for n in MODULES.split())])
def test_every_module_says_how_it_is_called_and_how_it_ends(name):
    """What --help prints: argparse's text, or with absl's flags the docstring."""
    module = importlib.import_module(f"ssl_gan_jax.{name}")
    text = module.PARSER.format_help() if hasattr(module, "PARSER") else module.__doc__
    assert f"    python -m ssl_gan_jax.{re.sub('commands.|.__main__', '', name)} " in text
    assert re.search(r"Exit\s+codes: 0 ", text)
