"""Numbers from the tables of papers, as fractions, to compare with those of the runs."""

from typing import NamedTuple

from ssl_gan_jax.report.rows import ALL, Budget, Panel


class Source(NamedTuple):
    """A table of a paper: its data, image size, metric, budgets and columns.

    `columns` maps a column's name to the nearest method or scenario of this package (or None),
    followed by a value for each budget. `more` has further differences to our runs.
    """

    paper: str
    data: str
    size: int
    metric: str
    budgets: tuple[Budget, ...]
    columns: dict[str, tuple]
    more: str = ""


class Published(NamedTuple):
    """A column of a paper's table."""

    title: str  # paper and method
    method: str | None  # of this package
    values: dict[Budget, float]
    caution: str  # differences to our runs


def _each(unit: str, *numbers: int) -> tuple[Budget, ...]:
    return tuple(Budget(False, unit, number) for number in numbers)


TABLES: dict[str, list[Source]] = {
    "plco": [
        Source("Madani et al. 2018, Table 1", "plco", 32, "accuracy",
               _each("a class", 10, 25, 100, 250, 500, 1000, 2000), {
            "CNN": ("supervised", .5127, .5127, .5781, .7123, .7869, .8080, .8312),
            "GAN": ("ssl_gan", .7308, .7552, .7958, .8151, .8425, .8457, .8510),
        }),
    ],
    "domain": [
        Source("Madani et al. 2018, Table 2", "plco to openi", 32, "accuracy", (ALL,), {
            "CNN": ("cnn", .578),
            "GAN": ("gan", .764),
            "GAN, adapted": ("gan_adapted", .937),
        }),
    ],
    "chex": [
        Source("Haque & Haque 2021, Table 1", "kermany", 64, "accuracy",
               _each("in all", 200, 500, 750, 1000, 2000), {
            "vanilla": ("supervised", .8504, .8782, .8917, .908, .9167),
            "multi-tasking D": ("multitask", .8906, .9212, .9185, .9412, .9485),
            "EC-GAN": ("ec_gan", .903, .9244, .9310, .9495, .9535),
            "3N-GAN": ("three_n_gan", .9152, .9349, .9416, .9488, .9603),
        }),
    ],
    "mnist": [  # as printed: 1677, 221, 93 and 90 errors of 10,000; 79.5
        Source("Salimans 2016", "mnist", 28, "accuracy", _each("in all", 20, 50, 100, 200), {
            "feature matching": ("ssl_gan", .8323, .9779, .9907, .9910),
        }),
        Source("Dai 2017", "mnist", 28, "accuracy", _each("in all", 100), {
            "bad GAN": (None, .99205),
        }),
    ],
    "pneumonia_mnist": [
        Source("SPARSE 2025", "pneumonia_mnist", 128, "accuracy", _each("a class", 5, 10, 20, 50), {
            "SPARSE": (None, .796, .854, .823, .813),
            "SPARSE, ensemble": (None, .806, .848, .817, .860),
            "SGAN": ("ssl_gan", .585, .577, .585, .783),
            "EC-GAN": ("ec_gan", .767, .802, .756, .815),
            "TripleGAN": (None, .762, .881, .821, .821),
            "CISSL": (None, .785, .831, .815, .850),
            "SEC-GAN": (None, .854, .838, .792, .842),
            "MatchGAN": (None, .710, .775, .781, .798),
        }, "SPARSE's own classifier is an EfficientNet-B3 pretrained on ImageNet; the others ran "
           "as their authors left them, not tuned to these data."),
        *(
            Source("MedMNIST v2", "pneumonia_mnist", size, metric, (ALL,), columns)
            for size, metric, columns in (
                (28, "accuracy", {"ResNet-18": (None, .854), "AutoML Vision": (None, .946)}),
                (28, "auroc", {"ResNet-18": (None, .944), "AutoML Vision": (None, .991)}),
                (224, "accuracy", {"ResNet-50": (None, .884)}),
                (224, "auroc", {"ResNet-50": (None, .962)}),
            )
        ),
    ],
}  # fmt: skip
# Runs without a sweep have no experiment, only data.
_EXPERIMENT_OF_DATA = {"kermany": "chex", "nlm_tb": "domain"}


def paper_columns(panel: Panel, metric: str) -> list[Published]:
    """The papers' columns for a metric, if they have a budget of the panel."""
    ours, found = f"{panel.data} at {panel.size}x{panel.size}", []
    for source in TABLES.get(_EXPERIMENT_OF_DATA.get(panel.experiment, panel.experiment), []):
        if source.metric == metric and set(source.budgets) & set(panel.budgets):
            theirs = f"{source.data} at {source.size}x{source.size}"
            caution = f"{source.paper} is on {theirs}; these runs are on {ours}."
            caution = " ".join(filter(None, [caution if ours != theirs else "", source.more]))
            found += [
                Published(
                    title=f"{source.paper}: {name}",
                    method=method,
                    values=dict(zip(source.budgets, values, strict=True)),
                    caution=caution,
                )
                for name, (method, *values) in source.columns.items()
            ]
    return found
