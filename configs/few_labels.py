"""Few labels: a dozen ways to use unlabelled images, with a GAN and without, under one protocol.

    --config=configs/few_labels.py:method=mean_teacher,labels=10,seed=0 --config.data.dir=DIR
    --config=configs/few_labels.py:data=phantom,method=fixmatch,labels=10

All take 1,000 steps of 32 labelled images at 32x32 from the same draws of labels. The best step by
validation AUROC is tested, at two thresholds: Youden's on the validation images, and .5. The
classifier is the network of `ssl_gan`'s discriminator (width 32, weight normalised, noise, dropout;
Adam with learning rate 5e-4, beta1 .5), but in `multitask`, `ec_gan` and `three_n_gan`, which keep
their paper's batch normalisation and 2e-4. Beside the labelled images a step takes 32 unlabelled
ones (`ssl_gan`, `mixmatch`), 64 (`mean_teacher`, `fixmatch`, `triple_gan`), or none.

`augmentation=strong` augments the labelled images of any method strongly. Without it, a part of
what semi-supervised methods gain is augmentation: `supervised` with it is the control. With
`vanilla=True`, too, it has the network of `multitask`, `ec_gan` and `three_n_gan`: their control.
So has `mean_teacher`, which tells whether a teacher adds to batch normalisation.
`data` is kermany, pneumonia_mnist or phantom.
"""

import ml_collections

from ssl_gan_jax.config import as_ssl_gan, as_vanilla, base, parse_arg

TEACHER = {"consistency": 5.0, "student": "strong", "teacher": "average", "ramp": 400, "ema": 0.999}
CONTENDERS = (  # each as `tuning` preferred it, and what tells the effects apart
    ("supervised", {}),
    ("supervised", {"augmentation": "strong"}),
    ("ssl_gan", {}),
    ("ssl_gan", {"augmentation": "strong"}),
    ("ssl_gan", TEACHER),
    ("mean_teacher", {}),
    ("fixmatch", {"tau": 0.8}),
    ("fixmatch", {"align": True, "relative": True, "tau": 0.9}),  # AdaMatch
    ("mixmatch", {"lambda_": 10.0}),
    ("triple_gan", {"a_p": 0.3}),
    ("multitask", {"augmentation": "strong"}),
    ("ec_gan", {"augmentation": "strong"}),
    ("three_n_gan", {"augmentation": "strong"}),
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(
        arg, method="ssl_gan", data="kermany", labels=10, seed=0, size=32, steps=1000,
        augmentation="weak", preset="default", vanilla=False,
    )  # fmt: skip
    config = base(a.method, data=a.data, size=a.size, seed=a.seed, preset=a.preset)
    (as_vanilla if a.vanilla else as_ssl_gan)(config.method)
    config.method.width = 32
    config.method.augmentation = a.augmentation
    config.data.labels_per_class = a.labels
    config.train.update(steps=a.steps, batch_size=32, evaluate_every=100)
    return config


def every_contender(add, **cell) -> None:  # noqa: ANN001, ANN003
    """The cell with each contender and five seeds, which draw labels, weights and order."""
    for seed in range(5):
        for method, changes in CONTENDERS:
            settings = {f"method.{key}": value for key, value in changes.items()}
            add(method=method, seed=seed, **cell, **settings)
        strong = {"method.augmentation": "strong"}
        add(method="supervised", vanilla=True, seed=seed, **cell, **strong)
        add(method="mean_teacher", vanilla=True, seed=seed, **cell)


def sweep(add) -> None:  # noqa: ANN001
    """Kermany's images, 10, 25 and 100 labels a class."""
    for labels in (10, 25, 100):
        every_contender(add, labels=labels)


def simultaneous(add) -> None:  # noqa: ANN001
    """3N-GAN whose G learns against D and C before their step, beside `sweep`'s."""
    settings = {"method.augmentation": "strong", "method.simultaneous": True}
    for labels in (10, 25, 100):
        for seed in range(5):
            add(method="three_n_gan", labels=labels, seed=seed, **settings)


def equalize(add) -> None:  # noqa: ANN001
    """Kermany's images as they are, without equalised histograms."""
    for labels in (10, 25, 100):
        for seed in range(5):
            for method, changes in (
                ("supervised", {}),
                ("supervised", {"method.augmentation": "strong"}),
                ("supervised", {"method.augmentation": "strong", "vanilla": True}),
                ("mean_teacher", {}),
                ("ssl_gan", {}),
            ):
                add(method=method, labels=labels, seed=seed, **changes, **{"data.equalize": "none"})


def few_to_validate(add) -> None:  # noqa: ANN001
    """As `sweep`, if validation has no more labels than training."""
    for labels in (10, 25):
        every_contender(add, labels=labels, **{"data.validation": "budget"})


def pneumonia_mnist(add) -> None:  # noqa: ANN001
    """PneumoniaMNIST, 5, 10, 20 and 50 labels a class."""
    for labels in (5, 10, 20, 50):
        every_contender(add, data="pneumonia_mnist", labels=labels)


def phantom(add) -> None:  # noqa: ANN001
    """The phantom, 10 labels a class."""
    every_contender(add, data="phantom", labels=10)


def tuning(add) -> None:  # noqa: ANN001
    """Three settings of each method, by validation alone, on a seed outside of the sweep's."""
    fixed = {"labels": 10, "seed": 100, "train.test_at_end": False}
    settings = {
        "supervised": ({}, {"augmentation": "strong"}, {"lr": 2e-4}),
        "ssl_gan": ({}, {"consistency": 1.0}, TEACHER),
        "mean_teacher": ({}, {"w": 50.0}, {"student": "weak"}),
        "fixmatch": ({}, {"tau": 0.8}, {"align": True, "relative": True, "tau": 0.9}),
        "mixmatch": ({}, {"lambda_": 10.0}, {"augmentation": "strong"}),
        "triple_gan": ({}, {"a_p": 0.3}, {"a_h": 0.03}),
        "multitask": ({}, {"augmentation": "strong"}, {"lr_d": 5e-4}),
        "ec_gan": ({}, {"augmentation": "strong"}, {"lr_c": 5e-4}),
        "three_n_gan": ({}, {"augmentation": "strong"}, {"lr_c": 5e-4}),
    }
    for method, choices in settings.items():
        for changes in choices:
            add(method=method, **fixed, **{f"method.{key}": v for key, v in changes.items()})
