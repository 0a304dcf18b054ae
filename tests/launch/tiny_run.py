"""The smallest run on the phantom, for any number of processes: `method`, `steps`."""

from ssl_gan_jax.config import as_ssl_gan, base, parse_arg


def get_config(arg=None):
    a = parse_arg(arg, method="three_n_gan", steps=5)
    config = base(a.method, data="phantom", size=16)
    if a.method == "supervised":
        as_ssl_gan(config.method)
    config.method.width = 4
    if a.method == "ssl_gan":
        config.method.reference_size = 4
        config.train.unlabeled_batch_size = 8
    config.data.options = {"images": 160, "site": "A"}
    config.data.labels_per_class = 6
    config.train.update(steps=a.steps, batch_size=8, log_every=1, evaluate_every=a.steps)
    config.train.update(checkpoint_every=a.steps, sample_every=a.steps)
    return config
