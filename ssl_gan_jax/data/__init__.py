"""From files to batches: `sources` -> `records` -> `splits` -> `dataset` -> `pipeline`.

TensorFlow is imported where data are prepared or batched, and not before.
"""
