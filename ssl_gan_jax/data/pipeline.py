"""The order in which images come, as a pure function of (seed, step).

Nothing about the past is kept: batch k is the same whether training started at 0 or at k, and for
any number of processes. tf.data computes the indices, whole blocks of steps ahead of time; the
images are gathered from the arrays in memory, which no one copies.
"""

from collections.abc import Iterator

import numpy as np

from ssl_gan_jax.data import tf_import
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.types import Batch

LABELLED, UNLABELED = 0, 1  # the two streams, part of their shuffle seeds
_BLOCK = 64  # steps whose indices are computed at once
_SMALL = 512  # images; below, `random_index_shuffle` is slow: it ciphers 10 bits until one fits
_TWENTY_BITS = np.int64(2**20 - 1)


def batches(
    image: np.ndarray,
    label: np.ndarray,
    labelled: np.ndarray,
    unlabelled: np.ndarray,
    *,
    batch_size: int,
    unlabeled_batch: int,
    seed: int,
    start: int = 0,
    steps: int,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `steps - 1`, as NumPy arrays.

    Each stream runs through its images epoch by epoch, every epoch in an order of its own without
    repeats; a batch may straddle two epochs. Scaling to [-1,1] is left to the device.

    Args:
        image: [N,H,W,1] uint8.
        label: [N] int, or [N,K] of findings; read at `labelled` only.
        labelled: indices of the images whose labels are known.
        unlabelled: indices of the images for the unlabelled stream.
        batch_size: B, labelled images a step, over all processes.
        unlabeled_batch: U, unlabelled images a step, over all processes; may be 0.
        seed: of both orders.
        start: first step.
        steps: one past the last step.
        process: (index, count) of this process, which gets its consecutive part of every batch.

    Raises:
        UserError: a stream without images, or a batch that the processes cannot share evenly.
    """
    index, count = process
    sizes = {"batch_size": batch_size, "unlabeled_batch": unlabeled_batch}
    for (name, size), pool in zip(sizes.items(), (labelled, unlabelled), strict=True):
        if size and not len(pool):
            raise UserError(f"{name}={size}, but there are no images to fill it from")
        if size % count:
            raise UserError(f"{name}={size} does not divide over {count} processes")
    b, u = (slice(index * n // count, (index + 1) * n // count) for n in sizes.values())
    label = np.asarray(label, np.int32)
    labelled, unlabelled = (np.asarray(rows, np.int64) for rows in (labelled, unlabelled))
    order = zip(
        _order(len(labelled), batch_size, (seed, LABELLED), start, steps),
        _order(len(unlabelled), unlabeled_batch, (seed, UNLABELED), start, steps),
        strict=True,
    )
    for i, j in order:
        known, unknown = labelled[i[b]], unlabelled[j[u]]
        yield Batch(image=image[known], label=label[known], unlabeled=image[unknown])


def _order(
    n: int, batch: int, seed: tuple[int, int], start: int, steps: int
) -> Iterator[np.ndarray]:
    """Yield [batch] indices in 0..n-1 for each step: an epoch is a permutation of all n."""
    if not batch:
        yield from (np.zeros(0, np.int64) for _ in range(start, steps))
        return
    tf = tf_import.tensorflow()
    places = tf.range(n, dtype=tf.int64)

    def indices(step):  # noqa: ANN001, ANN202 - [S] int64 -> [S, batch]
        position = tf.reshape(step[:, None] * batch + tf.range(batch, dtype=tf.int64), [-1])
        first, last = position[0] // n, position[-1] // n
        seeds = _epoch_seeds(tf, seed, tf.range(first, last + 1))
        if n > _SMALL:
            of_position = tf.gather(seeds, position // n - first)
            index = tf.random_index_shuffle(position % n, of_position, places[-1], rounds=8)
        else:  # shuffle numbers of 20 bits, and take the order in which they come
            epochs = tf.shape(seeds)[:1]
            draws = tf.random_index_shuffle(
                tf.tile(places, epochs), tf.repeat(seeds, n, axis=0), _TWENTY_BITS, rounds=8
            )
            orders = tf.reshape(tf.argsort(tf.reshape(draws, [-1, n])), [-1])
            index = tf.cast(tf.gather(orders, position - first * n), tf.int64)
        return tf.reshape(index, [-1, batch])

    dataset = tf.data.Dataset.range(start, steps).batch(_BLOCK).map(indices).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread can take 15 s to end
    options.threading.private_threadpool_size = 1  # the cores are XLA's
    for block in dataset.with_options(options).as_numpy_iterator():
        yield from block


def _epoch_seeds(tf, seed, epochs):  # noqa: ANN001, ANN202
    """[E] epochs -> [E,3] int64, hashed: of plain counters `random_index_shuffle` uses 8 bits."""
    words = []
    for word in range(3):
        key = [tf.fill(tf.shape(epochs), tf.constant(part, tf.int64)) for part in (*seed, word)]
        words.append(tf.bitcast(tf.fingerprint(tf.stack([epochs, *key], axis=1)), tf.int64))
    return tf.stack(words, axis=1)
