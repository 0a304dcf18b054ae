"""The command lines: `python -m ssl_gan_jax.NAME` runs commands/NAME.py."""
