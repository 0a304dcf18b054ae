"""Writes a run's model card: its training data, scores, intended use and warnings.

    python -m ssl_gan_jax.card --workdir=RUN

Writes MODEL_CARD.md and model_card.json into the run's folder, from its config.json, result.json
and, if there is one, calibration.json. Training does so at its end. The command needs no data and
no checkpoint. Exit codes: 0 done, 2 bad input.
"""

import argparse

from ssl_gan_jax import inference
from ssl_gan_jax.commands import arguments, ending
from ssl_gan_jax.report.card import write_card


def main(args: argparse.Namespace) -> None:
    """Writes the card."""
    write_card(args.workdir, *inference.read(args.workdir))
    ending.print_result(args.json, card=f"{args.workdir}/MODEL_CARD.md")


PARSER = arguments.Parser("card", __doc__)

if __name__ == "__main__":
    arguments.run(main, PARSER)
