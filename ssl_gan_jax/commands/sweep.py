r"""Trains all cells of an experiment, such as the runs of a paper's table.

    python -m ssl_gan_jax.sweep --config=configs/chex.py --config.data.dir=DIR --workdir=runs/chex
    python -m ssl_gan_jax.sweep --config=configs/chex.py --workdir=runs/chex --only='seed=0|1'
    python -m ssl_gan_jax.sweep --config=configs/chex.py:size=32 --sweep=controls --dry_run \
        --workdir=runs/controls

A config file's `sweep(add)` calls `add(KEY=VALUE, ...)` for each cell; --sweep names another such
function of the file. Keys are arguments of the config's `get_config`, or, with a dot, keys of the
config: `add(method="three_n_gan", **{"method.lambda_": 0.0})`. Arguments after the file's name and
--config.KEY=VALUE apply to all cells. Each cell is a run in its own folder in --workdir.

The same command resumes stopped cells and skips finished cells. Cells that fail are listed at the
end. Exit codes: 0 all done, or saved on SIGTERM; 1 some cells failed; 2 bad input.
"""

import collections
import os
import platform
import runpy
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from ssl_gan_jax import processes
from ssl_gan_jax.commands import ending, experiment, jax_setup
from ssl_gan_jax.config import CELL_KEYS, REPLICA_KEYS, cell_of, check_key, flat, resolve_steps
from ssl_gan_jax.errors import Stopped, UserError, check_choice
from ssl_gan_jax.training.progress import clock

flags.adopt_module_key_flags(experiment)
_SWEEP = flags.DEFINE_string("sweep", "sweep", "Function of the config file that adds the cells.")
_ONLY = flags.DEFINE_string("only", "", "key=value|value,...: the cells with these values.")
_SHARD = flags.DEFINE_string("shard", "0/1", "i/n: the i-th of n parts, for n machines.")
_TOGETHER = flags.DEFINE_integer("together", 1, "Cells that train as one program, if they can.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the cells and their states.")


class Cell(NamedTuple):
    """One run of a sweep."""

    values: Mapping[str, Any]  # arguments of `add`
    config: ml_collections.ConfigDict
    table_cell: Mapping[str, Any] = {}  # its cell in the report

    @property
    def name(self) -> str:
        """The name of its folder: `method=ssl_gan,labels=10,seed=0`."""
        return ",".join(f"{key}={value}" for key, value in self.values.items())


def cells(file: str, arg: str, overrides: Mapping[str, Any], function: str = "sweep") -> list[Cell]:
    """The cells that `function` of the config `file` adds.

    Args:
      file: path of a config file, which is run.
      arg: `key=value,...`, arguments of its `get_config` for all cells.
      overrides: keys of the config, with dots, for all cells.
      function: a name, such as "sweep".

    Raises:
      UserError: no such file, function or key; two cells with the same values; or replicas.
    """
    try:
        module = runpy.run_path(file)
    except OSError as error:
        raise UserError(f"--config={file}: there is no such file, or it cannot be read") from error
    if not callable(module.get(function)):
        names = [name for name in module if callable(module[name]) and not name.startswith("_")]
        raise UserError(f"{file} has no function {function!r}; it has {', '.join(names)}")
    found: dict[str, Cell] = {}

    def table_cell(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that name the cell, and what differs from the file's config for them."""
        arguments = dict(part.partition("=")[::2] for part in filter(None, arg.split(","))) | values
        named = {k: v for k, v in arguments.items() if k in CELL_KEYS and "." not in k}
        default = module["get_config"](_argument("", named))
        default.data.size, default.train.seed = config.data.size, config.train.seed
        return named | cell_of(flat(config), flat(default))

    def add(**values: Any) -> None:  # noqa: ANN401
        config = module["get_config"](_argument(arg, values))
        for key, value in {**overrides, **{k: v for k, v in values.items() if "." in k}}.items():
            check_key("key of the config", key, flat(config))
            config.update_from_flattened_dict({key: value})
        resolve_steps(config, {**overrides, **values})
        if config.replicas != 1:
            raise UserError(
                f"replicas={config.replicas}: a sweep trains one run a cell; add the seeds in "
                f"{function}(add) of {file}, and --together={config.replicas} trains them as one "
                "program"
            )
        cell = Cell(values, config, table_cell(config, values))
        if cell.name in found:
            raise UserError(f"{file}: {function} adds {cell.name} twice")
        found[cell.name] = cell

    module[function](add)
    return list(found.values())


def select(all_cells: Sequence[Cell], only: str) -> list[Cell]:
    """The cells with the values of `only`, `key=value|other,...`. UserError if there are none."""
    chosen = list(all_cells)
    for part in filter(None, only.split(",")):
        key, _, wanted = part.partition("=")
        check_choice("--only", key, dict.fromkeys(k for cell in all_cells for k in cell.values))
        values = dict.fromkeys(str(c.values[key]) for c in all_cells if key in c.values)
        for value in wanted.split("|"):
            check_choice(f"--only={key}", value, values)
        chosen = [cell for cell in chosen if str(cell.values.get(key)) in wanted.split("|")]
    if not chosen:
        raise UserError(f"--only={only}: no cell has all of these values")
    return chosen


def groups(cells: Sequence[Cell], together: int) -> list[list[Cell]]:
    """Groups of up to `together` cells that can train as one program.

    Groups with the same program are neighbours, so that it is compiled once.
    """
    kinds = collections.defaultdict(list)
    for cell in cells:
        kind = {key: value for key, value in flat(cell.config).items() if key not in REPLICA_KEYS}
        kinds[repr(sorted(kind.items()))].append(cell)
    return [
        kind[i : i + together] for kind in kinds.values() for i in range(0, len(kind), together)
    ]


def run_all(
    todo: Sequence[list[Cell]], train_cells: Callable[[list[Cell]], None]
) -> Iterator[tuple[Cell, str]]:
    """Trains group after group; yields each cell that failed, with the reason.

    If a group fails, its cells are trained one by one.
    """
    start, total, done = time.monotonic(), sum(map(len, todo)), 0
    queue = collections.deque(todo)
    while queue:
        group = queue.popleft()
        logging.info("%s", " + ".join(cell.name for cell in group))
        try:
            train_cells(group)
        except Stopped:
            raise
        except Exception as error:  # of any kind: the other cells must be trained
            if not processes.is_single_process():
                raise  # the other processes may still train this cell: all must restart
            if len(group) > 1:
                logging.warning("%s; its cells are trained one by one", error)
                queue.extendleft([cell] for cell in reversed(group))
                continue
            if not isinstance(error, UserError):
                logging.exception("%s failed", group[0].name)
            yield group[0], f"{error}" if isinstance(error, UserError) else repr(error)
        done += len(group)
        spent = time.monotonic() - start
        left = clock(spent / done * (total - done))
        logging.info("%d of %d cells, %s gone, about %s left", done, total, clock(spent), left)


def provenance() -> dict[str, str]:
    """The `commit` of the code and the `machine`, for the result."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"commit": commit, "machine": f"{cores} core{'s' * (cores != 1)} of {model}"}


def _argument(arg: str, values: Mapping[str, Any]) -> str:
    """The argument of `get_config`: `arg`, and the values of a cell whose keys have no dot."""
    return ",".join(filter(None, [arg, *(f"{k}={v}" for k, v in values.items() if "." not in k)]))


def _shard(text: str) -> slice:
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 0 <= index < count:
        raise UserError(f"--shard={text}: write i/n with 0 <= i < n, such as 0/4")
    return slice(index, None, count)


def _state(workdir: Path) -> str:
    from ssl_gan_jax.training import checkpoint

    if (workdir / "result.json").exists():
        return "finished"
    steps = checkpoint.steps(workdir / "checkpoints")
    return f"at step {steps[-1]}" if steps else "to do"


def main(argv: Sequence[str]) -> int:
    """Trains the cells, and returns the exit code."""
    experiment.check(argv)
    flag, workdir = flags.FLAGS["config"], Path(experiment.WORKDIR.value)
    file, _, arg = config_flags.get_config_filename(flag).partition(":")
    overrides = config_flags.get_override_values(flag)
    if _TOGETHER.value < 1:
        raise UserError(f"--together={_TOGETHER.value}: must be 1 or more")
    chosen = select(cells(file, arg, overrides, _SWEEP.value), _ONLY.value)
    todo = groups(chosen, _TOGETHER.value)[_shard(_SHARD.value)]
    if _DRY_RUN.value:
        for cell in (cell for group in todo for cell in group):
            state = _state(workdir / cell.name)
            if experiment.JSON.value:
                ending.print_result(True, cell=cell.name, state=state)
            else:
                print(f"{state:12} {cell.name}")
        return 0

    from ssl_gan_jax import train

    jax_setup.prepare_jax(_TOGETHER.value, experiment.DISTRIBUTED.value)
    origin, stop = provenance(), ending.on_signal()
    common = [f"--config.{key}={value}" for key, value in overrides.items() if key != "data.dir"]

    def about(cell: Cell) -> dict[str, Any]:
        keys = [f"--config.{k}={v}" for k, v in cell.values.items() if "." in k]
        config = f"{file}:{_argument(arg, cell.values)}"
        command = [f"--config={config}", *keys, *common]
        if cell.config.data.dir:
            command.append("--config.data.dir=DIR")  # the folder differs between machines
        return {
            "experiment": Path(file).stem,
            "cell": cell.table_cell,
            "command": f"python -m ssl_gan_jax.main {shlex.join([*command, '--workdir=RUN'])}",
            **origin,
        }

    def train_cells(group: list[Cell]) -> None:
        folders = [workdir / cell.name for cell in group]
        # With --together each cell has a virtual device, also a cell that trains without others.
        configs, shard = [cell.config for cell in group], _TOGETHER.value == 1
        train.together(configs, folders, stop, list(map(about, group)), shard)

    try:
        failed = list(run_all(todo, train_cells))
    except Stopped as stopped:
        logging.info("%s; the same command resumes the sweep", stopped)
        return processes.STOP_CODE
    for cell, reason in failed:
        logging.error("failed: %s: %s", cell.name, reason)
    return int(bool(failed))


if __name__ == "__main__":
    experiment.run(main)
