r"""Trains and tests one model.

    python -m ssl_gan_jax.main --config=configs/phantom.py --workdir=runs/phantom
    python -m ssl_gan_jax.main --config=configs/chex.py:method=three_n_gan,images=200,seed=0 \
        --config.data.dir=DIR --workdir=runs/chex
    python -m ssl_gan_jax.main --config=configs/chex.py --workdir=runs/chex --show_config

--config=FILE:key=value,... chooses an experiment (each file in configs/ documents its arguments).
--config.KEY=VALUE overrides a key, such as --config.method.tau=0.8 or --config.train.steps=500.
--show_config prints all keys, and where each value comes from. A config file is a Python program:
run only files that you trust. SIGTERM and Ctrl-C save and stop. The same command resumes a stopped
run; with more --config.train.steps it continues a finished run, whose result becomes
result.STEPS.json. --json prints result.json, a line a run. Exit codes: 0 done or saved on SIGTERM,
2 bad input.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from ssl_gan_jax import processes
from ssl_gan_jax.commands import ending, experiment, jax_setup
from ssl_gan_jax.commands.experiment import CONFIG, DISTRIBUTED, JSON, WORKDIR
from ssl_gan_jax.commands.origins import origins_of_config
from ssl_gan_jax.errors import Stopped

flags.adopt_module_key_flags(experiment)
_SHOW = flags.DEFINE_bool("show_config", False, "Only print the config, and where it comes from.")


def main(argv: Sequence[str]) -> int:
    """Trains, and returns the exit code."""
    experiment.check(argv)
    origins = origins_of_config()
    if _SHOW.value:
        shown = {key: {"value": v, "from": origin} for key, (v, origin) in origins.items()}
        text = {key: f"{v!r} ({origin})" for key, (v, origin) in origins.items()}
        ending.print_result(JSON.value, **(shown if JSON.value else text))
        return 0
    chosen = (f"{k}={v} ({origin})" for k, (v, origin) in origins.items() if origin != "default")
    logging.info("%s; all other keys by default", ", ".join(chosen))
    from ssl_gan_jax import train  # here, so that --help and errors in flags are fast

    jax_setup.prepare_jax(CONFIG.value.replicas, DISTRIBUTED.value)
    try:
        result = train.run(CONFIG.value, WORKDIR.value, stop=ending.on_signal())
    except Stopped as stopped:
        logging.info("%s: %s; the same command resumes it", WORKDIR.value, stopped)
        return processes.STOP_CODE
    runs = result.get("runs", [result])
    for run in runs:
        if run["test"]:
            scores = {name: run["test"][name] for name in ("accuracy", "auroc")}
            line = ", ".join(
                f"{name} {s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}]"
                for name, s in scores.items()
                if s["value"] is not None and s["low"] is not None
            )
            logging.info("seed %d, test, %d images: %s", run["seed"], run["test"]["n"], line)
    if processes.is_first():
        from ssl_gan_jax import report  # here: matplotlib is slow to import

        report.write([Path(WORKDIR.value)], Path(WORKDIR.value))
        for run in runs if JSON.value else ():
            ending.print_result(True, **run)
    files = "seed_*/result.json" if "runs" in result else "result.json"
    logging.info("%s/%s, %.0f s", WORKDIR.value, files, run["wall_s"])
    return 0


if __name__ == "__main__":
    experiment.run(main)
