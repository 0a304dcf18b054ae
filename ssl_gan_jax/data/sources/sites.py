"""Several data sets as the sites of one, to train at one hospital and test at another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_gan_jax.data import records
from ssl_gan_jax.data.index import Index, Metadata, Row
from ssl_gan_jax.data.names import class_key, in_order
from ssl_gan_jax.errors import UserError, check_choice


def index(
    data_dir: Path,
    sites: Mapping[str, str] | None = None,
    dirs: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    classes: Sequence[str] | str = (),
) -> Index:
    """List the images of all sites; label k means the same at each.

    Table 2 of Madani et al. is `sites={"plco": "plco", "openi": "openi"}` with
    `classes=("normal", "abnormal")`.

    Args:
        data_dir: holds a folder for each site.
        sites: name of a site -> its data set; by default every folder in data_dir is a site
            with images of its own, the data set 'folder'.
        dirs: name of a site -> its folder, relative to data_dir or absolute, if not called so.
        options: name of a site -> options of its data set.
        classes: names of the labels, as a sequence or divided by commas, if the sites' differ.
    """
    folders = (path.name for path in sorted(data_dir.glob("[!.]*")) if path.is_dir())
    sites = sites or dict.fromkeys(folders, "folder")
    if not sites:
        raise UserError(f"{data_dir} holds no folder, and data.options.sites names no site")
    dirs, options = dirs or {}, options or {}
    for key, given in (("dirs", dirs), ("options", options)):
        for site in given:
            check_choice(f"data.options.{key}", site, sites)
    parts = {}
    for site, name in sites.items():
        folder, of_site = data_dir / dirs.get(site, site), dict(options.get(site, {}))
        parts[site] = records.list_source(name, folder, **of_site)
    names = in_order((), given=classes) or next(iter(parts.values())).classes
    for site, part in parts.items():
        same = [*map(class_key, part.classes)] == [*map(class_key, names)]
        if len(part.classes) != len(names) or not (classes or same):
            raise UserError(
                f"site {site!r} has the classes {part.classes}, not {names}; if they mean the "
                "same in this order, name them in data.options.classes"
            )

    if len({np.ndim(part.rows[0].label) for part in parts.values()}) > 1:
        raise UserError("some sites have findings, and others classes: give all the same")

    def read(row: Row) -> np.ndarray:
        site, _, path = row.path.partition("/")
        return parts[site].read(row._replace(path=path))

    rows = [
        row._replace(path=f"{site}/{row.path}", patient=f"{site}/{row.patient}", site=site)
        for site, part in parts.items()
        for row in part.rows
    ]
    files = [path for part in parts.values() for path in part.files]

    def lines(field: str) -> tuple[str, ...]:
        of_site = {site: getattr(part.metadata, field) for site, part in parts.items()}
        return tuple(f"{site}: {line}" for site, lines in of_site.items() for line in lines)

    metadata = Metadata(
        lines("summary"),
        lines("warnings"),
        by_patient=all(part.metadata.by_patient for part in parts.values()),
        train_stays=any(part.metadata.train_stays for part in parts.values()),
    )
    return Index(names, rows, read, files, metadata)


DESCRIPTION = "Several data sets, each a site."
INSTRUCTIONS = """
give as data.dir a folder that holds a folder for each of data.options.sites, or say in
data.options.dirs where they are
"""
