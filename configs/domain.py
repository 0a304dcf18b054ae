"""Trained at one hospital, tested at another: Madani et al. 2018, Table 2, and what came after.

    --config=configs/domain.py:scenario=cnn,seed=0          --config.data.dir=DIR
    --config=configs/domain.py:scenario=gan,seed=0          --config.data.dir=DIR
    --config=configs/domain.py:scenario=gan_adapted,seed=0  --config.data.dir=DIR

The paper's rows: a CNN on the source; the SSL-GAN on the source; the SSL-GAN whose unlabelled
images are 80 % of the target (with --config.data.adapt=mixture, these and the source's). More:
`cnn_strong` augments strongly; `teacher` and `teacher_adapted` are mean_teacher on the unlabelled
images of source and target; `cnn_batch_norm`, `cnn_batch_norm_strong`, `teacher_batch_norm` and
`three_n_gan` (augmented strongly) have the network of the 3N-GAN paper; `adamatch` is fixmatch with
aligned pseudo-labels and a relative threshold on those of the target; `target` is a CNN on labels
of the 80 %, the upper bound. All are tested on the same 20 % of the target's patients, which the
seed draws: the target is small, so pool over seeds. `labels=25` takes so many of each class, 0 all,
and validation is the source's (with `target`, the target's). A finished run adapts without the
source's images:

    python -m ssl_gan_jax.adapt --workdir=RUN --out=ADAPTED   to the same 80 %, tested on the 20 %

Default: Shenzhen -> Montgomery (tuberculosis, not the paper's cardiomegaly), or `source=montgomery,
target=shenzhen`. The paper's own pair, normal against enlarged hearts, is `data=sites,source=plco,
target=openi`, with DIR holding the folders plco/ and openi/. Your own: `data=folder,source=a,
target=b`, by the column `site` of your table. Without any data: `data=phantom,source=A,target=B`,
or B to A. `data=kermany,source=train,target=test`: its official test images as another hospital,
half of them to adapt to, half to test.

Gave (results/domain.jsonl) no gain of unlabelled target images in training from Shenzhen to
Montgomery and back, nor on the phantom, where equalised histograms are enough; and more
accuracy from the target's batch statistics, on the phantom and on Kermany's test images.
"""

import ml_collections

from ssl_gan_jax.config import as_ssl_gan, as_vanilla, base, parse_arg
from ssl_gan_jax.errors import check_choice

SCENARIOS = {  # method, what joins its unlabelled images, settings
    "cnn": ("supervised", "none", {}),
    "cnn_strong": ("supervised", "none", {"augmentation": "strong"}),
    "cnn_batch_norm": ("supervised", "none", {}),
    "cnn_batch_norm_strong": ("supervised", "none", {"augmentation": "strong"}),
    "three_n_gan": ("three_n_gan", "none", {"augmentation": "strong"}),
    "gan": ("ssl_gan", "none", {}),
    "gan_adapted": ("ssl_gan", "target", {}),
    "teacher": ("mean_teacher", "none", {}),
    "teacher_batch_norm": ("mean_teacher", "none", {}),
    "teacher_adapted": ("mean_teacher", "target", {}),
    "adamatch": ("fixmatch", "target", {"align": True, "relative": True, "tau": 0.9}),
    "target": ("supervised", "none", {}),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(
        arg,
        scenario="gan_adapted",
        source="shenzhen",
        target="montgomery",
        data="nlm_tb",
        labels=0,
        seed=0,
        size=32,
        steps=1000,
    )
    check_choice("scenario", a.scenario, SCENARIOS)
    method, adapt, changes = SCENARIOS[a.scenario]
    config = base(method, data=a.data, size=a.size, seed=a.seed)
    if a.data == "sites":
        sites = (a.source, a.target)
        config.data.options = {
            "sites": {site: site for site in sites},
            "options": {"openi": {"others": "drop"}} if "openi" in sites else {},
            "classes": ("normal", "abnormal heart"),
        }
    elif a.data == "phantom":
        config.data.options = {"images": 8000}
    elif a.data == "kermany":
        config.data.options = {"sites": True}
        config.data.target_test = 0.5
    config.data.source_site = a.target if a.scenario == "target" else a.source
    config.data.target_site = a.target
    config.data.adapt = adapt
    config.data.labels_per_class = a.labels
    config.data.split_seed = config.train.get_oneway_ref("seed")  # of each replica, too
    config.train.steps = a.steps
    config.train.batch_size = 32
    config.train.evaluate_every = 100
    (as_vanilla if "batch_norm" in a.scenario else as_ssl_gan)(config.method)
    config.method.width = 32
    config.method.update(changes)
    return config


def sweep(add) -> None:  # noqa: ANN001
    """Table 2, in both directions; many seeds, since each tests few patients."""
    for source, target in (("shenzhen", "montgomery"), ("montgomery", "shenzhen")):
        for scenario in ("cnn", "gan", "gan_adapted"):
            for seed in range(10):
                add(scenario=scenario, source=source, target=target, seed=seed)


def nlm_tb(add) -> None:  # noqa: ANN001
    """Every scenario in both directions at 64x64."""
    for seed in range(10):
        for source, target in (("shenzhen", "montgomery"), ("montgomery", "shenzhen")):
            for scenario in SCENARIOS:
                add(scenario=scenario, source=source, target=target, size=64, seed=seed)


def phantom(add, **changes) -> None:  # noqa: ANN001, ANN003
    """Every scenario on made radiographs of two sites, in both directions."""
    for source, target in (("A", "B"), ("B", "A")):
        for labels in (100, 25):
            for seed in range(5):
                for scenario in SCENARIOS:
                    add(data="phantom", source=source, target=target, labels=labels,
                        scenario=scenario, seed=seed, **changes)  # fmt: skip


def phantom_raw(add) -> None:  # noqa: ANN001
    """The same without equalisation: a severe shift, for exposure and response differ too."""
    phantom(add, **{"data.equalize": "none"})


def kermany(add) -> None:  # noqa: ANN001
    """From Kermany's training images to its official test images."""
    for labels in (100, 10):
        for seed in range(5):
            for scenario in SCENARIOS:
                known = min(labels, 80) if scenario == "target" else labels  # all that it has
                add(data="kermany", source="train", target="test", labels=known,
                    scenario=scenario, seed=seed)  # fmt: skip
