"""The section `steps`: each method's training step against its PyTorch twin."""

import itertools
import sys
import time

import torch
from cases import (
    WIDTH,
    compiled,
    config_of,
    many_steps,
    single_step,
    stacked,
    started,
    stepper,
    without_shift,
)
from timing import alternate, count_flops, program_memory, seconds
from tiny import METHODS
from tiny import batch as batch_of
from twins import Twin, compare, disagreements, tensors

SEVERAL = 4  # steps a call
QUICK_CELLS = (
    ("three_n_gan", 32, 10),
    ("three_n_gan", 64, 10),
    ("ssl_gan", 32, 10),
    ("ssl_gan", 32, 64),
)


class Disagreement(Exception):
    """A twin does other work than ours, so their times must not be compared."""


def steps(options, rate):
    """A training step against its PyTorch twin: every method, size and batch size."""
    asked = (options.methods, options.sizes, options.batches)
    if options.quick:
        cells = [c for c in QUICK_CELLS if all(x in a for x, a in zip(c, asked, strict=True) if a)]
    else:
        usual = (METHODS, (32, 64, 128), (10, 64))
        cells = itertools.product(*(a or u for a, u in zip(asked, usual, strict=True)))
    for (name, size), group in itertools.groupby(cells, key=lambda cell: cell[:2]):
        check(name, size)
        for _, _, b in group:
            rate.sample()
            yield step_row(name, size, b, budget_s=20 if options.quick else 60)


def check(name, size):
    """Refuses a twin that does other work.

    Three batches, because rounding alone can part two right programs (see `twins.quiet`), though
    seldom; a wrong twin differs on every one.
    """
    for seed in range(3):
        differ = disagreements(compare(name, size, WIDTH, b=8, seed=seed))
        if not differ:
            return
    terms = "; ".join(f"{term}: {a:.6g} here, {b:.6g} there" for term, (a, b) in differ.items())
    raise Disagreement(f"{name} at {size} pixels and its twin differ: {terms}")


def step_row(name, size, b, budget_s):
    start = time.perf_counter()
    config, batch = config_of(name, size, width=WIDTH), batch_of(name, b, size)
    method, state = started(config, batch)
    program = compiled(single_step(method), state, batch)
    runs = {"ours": stepper(program, state, batch)}
    runs["ours"](1)
    if seconds(runs["ours"], 1) < 0.2:  # what a call costs is lost in longer steps
        batches = stacked(batch, SEVERAL)
        several = compiled(many_steps(method.train_step, SEVERAL), state, batches)
        runs["several"] = stepper(several, state, batches)
    runs |= twin_steppers(name, config, state, batch, with_compile=size < 128)
    s = alternate(runs, max(budget_s - (time.perf_counter() - start), 8))
    if "several" in s:
        s["several"] /= SEVERAL
    best = min(s[key] for key in ("eager", "channels_last", "compile") if key in s)
    gflop = count_flops(*without_shift(config, state, batch)) / 1e9
    return {
        "method": name,
        "size": size,
        "batch": b,
        "ours_ms": 1e3 * s["ours"],
        "images_s": b / s["ours"],
        "gflop": gflop,
        "gflops": gflop / s["ours"],
        "program_mb": program_memory(program) / 1e6,
        "several_ms": 1e3 * s["several"] if "several" in s else None,
        "eager_ms": 1e3 * s["eager"],
        "channels_last_ms": 1e3 * s["channels_last"],
        "compile_ms": 1e3 * s["compile"] if "compile" in s else None,
        "torch_over_ours": best / s["ours"],
    }


def twin_steppers(name, config, state, batch, with_compile):
    """`{"eager", "channels_last", "compile"}`, the last in the faster layout of the two."""
    formats = {"eager": torch.contiguous_format, "channels_last": torch.channels_last}
    runs, once, data = {}, {}, tensors(batch)

    def run_twin(twin):
        def run(n):
            for _ in range(n):
                twin.step(*data)

        return run

    for key, memory_format in formats.items():
        runs[key] = run_twin(Twin(name, config, state, memory_format))
        runs[key](1)
        once[key] = seconds(runs[key], 1)
    if with_compile:
        # Else a network beyond the eighth variant would quietly run uncompiled.
        torch._dynamo.config.recompile_limit = 64
        torch.compiler.reset()
        twin = Twin(name, config, state, formats[min(once, key=once.get)])
        twin.compile()
        try:
            run_twin(twin)(1)
            runs["compile"] = run_twin(twin)
        except Exception as error:  # whatever inductor lacks here, such as a C++ compiler
            print(f"torch.compile: {type(error).__name__}: {error}"[:300], file=sys.stderr)
    return runs
