"""From files to batches: `sources` -> `records` -> `splits` -> `dataset` -> `pipeline`.

TensorFlow is imported when data are prepared or batched, and not before.
"""
