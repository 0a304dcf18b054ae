"""Numbers from the papers, to stand beside ours: facts of their tables, as fractions."""

from typing import NamedTuple

from ssl_gan_jax.report.rows import Budget, Panel


class Source(NamedTuple):
    """A table of a paper: its data, image size, metric, and budgets (0: all labels)."""

    paper: str
    data: str
    size: int
    metric: str
    budgets: tuple[Budget, ...]


class Published(NamedTuple):
    """One method of a table, and the method or scenario of ours that stands nearest to it.

    `spreads` holds the paper's own +/-, where it gives one.
    """

    source: Source
    name: str
    method: str | None
    values: dict[Budget, float]
    spreads: dict[Budget, float]

    @property
    def title(self) -> str:
        """Names paper and method."""
        return f"{self.source.paper}: {self.name}"


def _source(paper: str, data: str, size: int, metric: str, unit: str, *numbers: int) -> Source:
    return Source(paper, data, size, metric, tuple(Budget(n, unit) for n in numbers or (0,)))


def _row(
    source: Source, name: str, method: str | None, *values: float, spreads: tuple = ()
) -> Published:
    by_budget = dict(zip(source.budgets, values, strict=True))
    return Published(source, name, method, by_budget, dict(zip(source.budgets, spreads)))  # noqa: B905


_M1 = _source("M Table 1", "plco", 32, "accuracy", "a class", 10, 25, 100, 250, 500, 1000, 2000)
_M2 = _source("M Table 2", "plco to openi", 32, "accuracy", "")
_H1 = _source("H Table 1", "kermany", 64, "accuracy", "in all", 200, 500, 750, 1000, 2000)
_SALIMANS = _source("Salimans 2016", "mnist", 28, "errors", "in all", 20, 50, 100, 200)
_DAI = _source("Dai 2017", "mnist", 28, "errors", "in all", 100)
_SPARSE = _source("SPARSE 2025", "pneumonia_mnist", 28, "accuracy", "a class", 5, 10, 20, 50)
_ACCURACY, _AUROC, _ACCURACY_224, _AUROC_224 = (
    _source("MedMNIST v2", "pneumonia_mnist", size, metric, "")
    for size in (28, 224)
    for metric in ("accuracy", "auroc")
)

TABLES: dict[str, list[Published]] = {
    "plco": [
        _row(_M1, "CNN", "supervised", .5127, .5127, .5781, .7123, .7869, .8080, .8312),
        _row(_M1, "GAN", "ssl_gan", .7308, .7552, .7958, .8151, .8425, .8457, .8510),
    ],
    "domain": [
        _row(_M2, "CNN", "cnn", .578),
        _row(_M2, "GAN", "gan", .764),
        _row(_M2, "GAN, adapted", "gan_adapted", .937),
    ],
    "chex": [
        _row(_H1, "vanilla", "supervised", .8504, .8782, .8917, .908, .9167),
        _row(_H1, "multi-tasking D", "multitask", .8906, .9212, .9185, .9412, .9485),
        _row(_H1, "EC-GAN", "ec_gan", .903, .9244, .9310, .9495, .9535),
        _row(_H1, "3N-GAN", "three_n_gan", .9152, .9349, .9416, .9488, .9603),
    ],
    "mnist": [
        _row(_SALIMANS, "feature matching", "ssl_gan", 1677, 221, 93, 90,
             spreads=(452, 136, 6.5, 4.2)),
        _row(_DAI, "bad GAN", None, 79.5, spreads=(9.8,)),
    ],
    "pneumonia_mnist": [
        _row(_SPARSE, "SPARSE", None, .796, .854, .823, .813),
        _row(_SPARSE, "SGAN", "ssl_gan", .585, .577, .585, .783),
        _row(_SPARSE, "EC-GAN", "ec_gan", .767, .802, .756, .815),
        _row(_SPARSE, "TripleGAN", None, .762, .881, .821, .821),
        _row(_SPARSE, "CISSL", None, .785, .831, .815, .850),
        _row(_SPARSE, "SEC-GAN", None, .854, .838, .792, .842),
        _row(_ACCURACY, "ResNet-18", None, .854),
        _row(_AUROC, "ResNet-18", None, .944),
        _row(_ACCURACY_224, "ResNet-50", None, .884),
        _row(_AUROC_224, "ResNet-50", None, .962),
        _row(_ACCURACY, "AutoML Vision", None, .946),
        _row(_AUROC, "AutoML Vision", None, .991),
    ],
}  # fmt: skip
# Single runs name no experiment, only their data.
_EXPERIMENT_OF_DATA = {"kermany": "chex", "nlm_tb": "domain"}


def beside(panel: Panel, metric: str) -> list[Published]:
    """The papers' columns for a metric that have a budget of the panel's runs."""
    name = _EXPERIMENT_OF_DATA.get(panel.experiment, panel.experiment)
    columns = [p for p in TABLES.get(name, []) if p.source.metric == metric]
    return [p for p in columns if p.values.keys() & set(panel.budgets)]


def caution(panel: Panel, columns: list[Published]) -> list[str]:
    """Where a paper's data are not the panel's: a line that says so."""
    ours = f"{panel.data} at {panel.size}x{panel.size}"
    theirs = {
        p.source.paper: f"{p.source.data} at {p.source.size}x{p.source.size}" for p in columns
    }
    return [
        f"{paper} is on {data}; these runs are on {ours}."
        for paper, data in theirs.items()
        if data != ours
    ]
