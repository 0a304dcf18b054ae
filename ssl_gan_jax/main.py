"""Trains and tests one model.

    python -m ssl_gan_jax.main --config=configs/phantom.py --workdir=runs/phantom
    python -m ssl_gan_jax.main --config=configs/chex.py:method=three_n_gan,images=200,seed=0 \\
        --config.data.dir=DIR --workdir=runs/chex

--config=FILE:key=value,... chooses an experiment (each file in configs/ says what its arguments
are); --config.KEY=VALUE overrides any key of it, such as --config.method.tau=0.8 or
--config.train.steps=500. A config file is a Python program: run only those that you trust.
The same command again goes on where it stopped; SIGTERM and Ctrl-C save first. Exit codes: 0 done
or saved on SIGTERM, 2 bad input.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from ssl_gan_jax import command_line, distributed
from ssl_gan_jax.command_line import CONFIG, WORKDIR
from ssl_gan_jax.errors import Stopped

flags.adopt_module_key_flags(command_line)


def main(argv: Sequence[str]) -> int:
    """Runs what the flags say; the exit code."""
    command_line.check_flags(argv)
    from ssl_gan_jax import train  # here, so that --help and errors in flags are quick

    command_line.prepare_jax(CONFIG.value.replicas, command_line.DISTRIBUTED.value)
    try:
        result = train.run(CONFIG.value, WORKDIR.value, stop=command_line.on_signal())
    except Stopped as stopped:
        logging.info("%s: %s; the same command goes on from there", WORKDIR.value, stopped)
        return distributed.STOP_CODE
    for one in result.get("runs", [result]):
        if one["test"]:
            scores = {name: one["test"][name] for name in ("accuracy", "auroc")}
            line = ", ".join(
                f"{name} {s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}]"
                for name, s in scores.items()
                if s["value"] is not None and s["low"] is not None
            )
            logging.info("seed %d, test, %d images: %s", one["seed"], one["test"]["n"], line)
    if distributed.is_first():
        from ssl_gan_jax import report  # here: its figures' library takes its time to load

        report.write([Path(WORKDIR.value)], Path(WORKDIR.value))
    files = "seed_*/result.json" if "runs" in result else "result.json"
    logging.info("%s/%s, %.0f s", WORKDIR.value, files, one["wall_s"])
    return 0


if __name__ == "__main__":
    command_line.cli(main)
