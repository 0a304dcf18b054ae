"""One training run: its data, compiled steps, checkpoints, log and result."""
