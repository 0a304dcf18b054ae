"""Measures speed, and asserts none: prints tables and writes them as JSON.

    python tests/benchmarks/run.py [--quick] [--only steps,loop] [--out benchmarks.json]
    python tests/benchmarks/run.py --only steps --methods ssl_gan --sizes 32,64 --batches 10

Sections: `steps` (each method's training step against its PyTorch twin; needs PyTorch), `methods`
(each method's step against `ssl_gan`'s), `parts` (where a step's time goes), `memory` (what a step
holds at once, without running it), `growth` (cost as the work grows), `replicas` (several trainings
in one program), `loop` (the training loop against the bare step), `startup` (a process up to its
first step) and `preparation` (images into the cache).
It takes about an hour, `--quick` a few minutes, and wants the machine for itself: PyTorch's
threads wait for each other many times a step, so company slows it far more than it slows XLA.
Exit codes: 0 done, 1 a twin does not compute our losses, 2 bad arguments.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SECTIONS = (
    "steps",
    "methods",
    "parts",
    "memory",
    "growth",
    "replicas",
    "loop",
    "startup",
    "preparation",
)


def main():
    options = parse()
    # The checkout that this file lies in is measured, whatever else is installed.
    sys.path[:0] = map(str, (REPOSITORY, REPOSITORY / "tests"))
    from ssl_gan_jax.commands.jax_setup import tune_malloc

    tune_malloc()  # as the project's own commands do; PyTorch gets them too
    import sections
    from timing import MatrixRate

    failures = ()
    if "steps" in options.only:
        import torch
        from steps import Disagreement, steps

        torch.set_num_threads(os.cpu_count())
        torch.set_flush_denormal(True)  # as XLA does
        failures = (Disagreement,)
    rate, report = MatrixRate(), {"machine": machine(), "quick": options.quick}
    for name in options.only:
        rate.sample()
        section, rows = steps if name == "steps" else getattr(sections, name), []
        try:
            for row in section(options, rate):
                print(f"{name}: {brief(row)}", file=sys.stderr, flush=True)
                rows.append(row)
                rate.sample()
                save(options.out, report, name, rows, rate)
        except failures as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        show(name, section.__doc__, rows)
    products = ", ".join(f"{n}: {gflops:.0f}" for n, gflops in rate.medians().items())
    print(f"Matrix products in float32, GFLOP/s by size: {products}. Written: {options.out}")
    return 0


def parse():
    def listed(kind, choices=None):
        def parser(text):
            values = [kind(part) for part in text.split(",")]
            for value in values:
                if choices and value not in choices:
                    raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(choices)}")
            return values

        return parser

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = sorted(path.stem for path in (REPOSITORY / "ssl_gan_jax/methods").glob("[a-z]*.py"))
    parser.add_argument("--quick", action="store_true", help="few cells, few rounds")
    parser.add_argument("--only", type=listed(str, SECTIONS), default=SECTIONS, metavar="SECTIONS")
    parser.add_argument(
        "--methods", type=listed(str, methods), help="of steps, methods, memory and replicas"
    )
    parser.add_argument("--sizes", type=listed(int), help="pixels, of steps and memory")
    parser.add_argument("--batches", type=listed(int), help="batch sizes, of steps")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), metavar="FILE.json")
    return parser.parse_args()


def machine():
    import jax

    torch = sys.modules.get("torch")  # loaded only for the section `steps`
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "system": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": torch and torch.__version__,
        "torch_threads": torch and torch.get_num_threads(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "load_at_start": os.getloadavg()[0],
    }


def cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())


def save(path, report, name, rows, rate):
    """Writes all that is known so far, so that an interrupted run is not lost."""
    for row in rows:
        if "gflops" in row:
            row["of_matrix_rate"] = row["gflops"] / rate.value()
        if "updates_ms" in row:
            row["products_ms"] = row["step_ms"] * row["of_matrix_rate"]
            row["rest_ms"] = row["step_ms"] - row["updates_ms"] - row["products_ms"]
    report |= {name: rows, "matrix_product_gflops": rate.medians()}
    path.write_text(json.dumps(report, indent=1) + "\n")


def brief(row):
    return ", ".join(f"{key} {cell(value)}" for key, value in row.items())


def cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


def show(name, title, rows):
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    style = box.SIMPLE if sys.stdout.isatty() else box.ASCII2
    table = Table(box=style)
    for key in rows[0] if rows else ():
        numeric = not isinstance(rows[0][key], str)
        table.add_column(key.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*map(cell, row.values()))
    console.print(f"{name}: {title}", table, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
