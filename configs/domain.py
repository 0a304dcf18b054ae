"""Madani et al. 2018, Table 2: trained at one hospital, tested at another, 32x32.

    --config=configs/domain.py:scenario=cnn,seed=0          --config.data.dir=DIR
    --config=configs/domain.py:scenario=gan,seed=0          --config.data.dir=DIR
    --config=configs/domain.py:scenario=gan_adapted,seed=0  --config.data.dir=DIR

The paper's rows: a CNN on the source; the SSL-GAN on the source; the SSL-GAN whose unlabelled
images are 80 % of the target (with --config.data.adapt=mixture, these and the source's). All are
tested on the same 20 % of the target's patients, which the seed draws: the target is small, so pool
over seeds. All labels of the source are used, and validation is the source's. Default: Shenzhen ->
Montgomery (tuberculosis, not the paper's cardiomegaly); `source=montgomery,target=shenzhen` for the
other direction. The paper's own pair, normal against enlarged hearts, is
`data=sites,source=plco,target=openi`, with DIR holding the folders plco/ and openi/.

Gave over ten seeds, with the mixture (results/domain.jsonl): accuracy .68 from Shenzhen to
Montgomery and .68 to .70 from Montgomery to Shenzhen, no gain of a row over another.
"""

import ml_collections

from ssl_gan_jax.config import as_ssl_gan, base, parse_arg
from ssl_gan_jax.errors import check_choice


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(
        arg,
        scenario="gan_adapted",
        source="shenzhen",
        target="montgomery",
        data="nlm_tb",
        seed=0,
        steps=1000,
    )
    check_choice("scenario", a.scenario, ("cnn", "gan", "gan_adapted"))
    method = "supervised" if a.scenario == "cnn" else "ssl_gan"
    config = base(method, data=a.data, size=32, seed=a.seed)
    if a.data == "sites":
        sites = (a.source, a.target)
        config.data.options = {
            "sites": {site: site for site in sites},
            "options": {"openi": {"others": "drop"}} if "openi" in sites else {},
            "classes": ("normal", "abnormal heart"),
        }
    config.data.source_site, config.data.target_site = a.source, a.target
    config.data.adapt = "target" if a.scenario == "gan_adapted" else "none"
    config.data.split_seed = config.train.get_oneway_ref("seed")  # of each replica, too
    config.train.steps = a.steps
    config.train.batch_size = 32
    config.train.evaluate_every = 100
    as_ssl_gan(config.method)
    return config


def sweep(add) -> None:  # noqa: ANN001
    """Table 2, in both directions; many seeds, since each tests few patients."""
    for source, target in (("shenzhen", "montgomery"), ("montgomery", "shenzhen")):
        for scenario in ("cnn", "gan", "gan_adapted"):
            for seed in range(10):
                add(scenario=scenario, source=source, target=target, seed=seed)
