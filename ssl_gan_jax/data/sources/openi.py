"""Open-i's Indiana University chest radiographs, Demner-Fushman et al., JAMIA 2016; CC BY-NC-ND.

A report has tags (MeSH) and usually a frontal and a lateral image. No patient is published: one
report counts as one patient, though a person may have several reports.
"""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from defusedxml import DefusedXmlException, ElementTree

from ssl_gan_jax.data import tables
from ssl_gan_jax.data.index import (
    UNLABELED,
    Index,
    Row,
    chosen_findings,
    index_of_tables,
    outcome,
)
from ssl_gan_jax.errors import UserError, check_choice

ARCHIVE, FOLDER = "NLMCXR_reports.tgz", "ecgen-radiology"
PROJECTIONS = "indiana_projections.csv"  # of Kaggle: filename, projection
METADATA = "nlmcxr_dicom_metadata.csv*"  # of the DICOM release: imageid, view position
_NO_FINDING = {"no indexing", "technical quality of image unsatisfactory"}  # tags
_FRONTAL = ("frontal", "pa", "ap")
_MAX_REPORT, _MAX_REPORTS = 2**20, 2**28  # bytes; the real ones hold 20 kB and 30 MB
# The same image is CXR12_IM-0034-1001.png, 12_IM-0034-1001.dcm and 12_IM-0034-1001.dcm.png.
_IMAGE = re.compile(r"(?:cxr)?(\d+)(?:_\d+)?_(im-[\d-]+)(?:\.\w+)*")


class Report(NamedTuple):
    """What a report says."""

    name: str
    tags: tuple[str, ...]  # MeSH/major in lower case, such as 'cardiomegaly/mild' or 'normal'
    images: tuple[str, ...]  # names without a suffix; 104 reports have none


def index(
    data_dir: Path,
    positive: str = "cardiomegaly",
    borderline: str = "positive",
    others: str = "unlabelled",
    views: str = "frontal",
    findings: Sequence[str] | str = "",
) -> Index:
    """List the images of the reports: `positive` against normal.

    Normal is a report with the tag 'normal' alone (1,391 of 3,955); positive, one with a tag
    `positive` or `positive/...` (cardiomegaly: 375). Madani et al. used 400 and 313 images; which,
    the tags do not say. With the DICOM table of views these are 1,532 and 361 frontal images.

    Args:
        data_dir: holds reports, images (PNG or DICOM) and a table of views.
        positive: a tag of the reports, without what follows its '/'.
        borderline: what 'positive/borderline' is (cardiomegaly: 47), one of `OUTCOMES`.
        others: what reports with other findings are, one of `OUTCOMES`.
        views: 'frontal', those that a table calls so (the DICOM table leaves 35 % open); 'not
            lateral', these and those left open; or 'all', for which no table is needed.
        findings: 'all', or some tags as a sequence or divided by commas: each image is labelled
            with all that its report has, in place of `positive` alone; then 'drop' is no choice.
    """
    check_choice("data.options.views", views, ("frontal", "not lateral", "all"))
    found, positive = reports(data_dir), positive.lower()
    known = {tag.partition("/")[0] for report in found for tag in report.tags}
    of_borderline = outcome("borderline", borderline, findings)
    labels = {"positive": 1, "negative": 0, "borderline": of_borderline}
    if findings:
        classes = chosen_findings(findings, sorted(known - {"normal", *_NO_FINDING}))
    else:
        check_choice("data.options.positive", positive, known)
        labels[None], classes = outcome("others", others), ("normal", positive)

    def label_of(tags: tuple[str, ...]) -> int | tuple[int, ...] | None:
        if not findings:
            return labels[finding(tags, positive)]
        if _NO_FINDING.issuperset(tags):  # the report says nothing
            return (UNLABELED,) * len(classes)
        return tuple(labels[finding(tags, name) or "negative"] for name in classes)

    wanted = (*_FRONTAL, "") if views == "not lateral" else _FRONTAL
    view = _views(data_dir) if views != "all" else {}
    entries = [
        Row(image, label, report.name)
        for report in found
        if (label := label_of(report.tags)) is not None
        for image in report.images
        if views == "all" or view.get(image_key(image), "") in wanted
    ]
    return index_of_tables(data_dir, classes, entries, image_key)


def finding(tags: tuple[str, ...], positive: str) -> str | None:
    """Return 'positive', 'borderline' or 'negative', or None for a report of something else."""
    kinds = [tag for tag in tags if tag.partition("/")[0] == positive]
    if tags == ("normal",) or not kinds:
        return "negative" if tags == ("normal",) else None
    return "borderline" if all("borderline" in kind for kind in kinds) else "positive"


def reports(data_dir: Path) -> list[Report]:
    """Parse all reports of the folder `ecgen-radiology`, or else of the archive."""
    found = []
    for name, xml in _files(data_dir):
        try:
            root = ElementTree.fromstring(xml, forbid_dtd=True)
        except (DefusedXmlException, ElementTree.ParseError, ValueError, LookupError) as error:
            kind = type(error).__name__
            raise UserError(f"{name} is no report of Open-i ({kind}): unpack it again") from error
        tags = tuple((tag.text or "").strip().lower() for tag in root.iterfind("MeSH/major"))
        if not tags:
            raise UserError(f"{name} is no report of Open-i (no MeSH/major): unpack it again")
        images = (image.get("id") for image in root.iter("parentImage"))
        found.append(Report(Path(name).stem, tags, tuple(filter(None, images))))
    if not found:
        raise UserError(f"no report (*.xml) in {FOLDER} or {ARCHIVE} of {data_dir}")
    return found


def image_key(name: str) -> str:
    """Return what all names of an image have in common, such as '12_im-0034-1001'."""
    name = name.rpartition("/")[2].casefold()
    match = _IMAGE.fullmatch(name)
    return f"{match[1]}_{match[2]}" if match else name.rpartition(".")[0]


def _files(data_dir: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each report, sorted by name. Nothing is unpacked to the disk."""
    for folder in sorted(data_dir.rglob(FOLDER))[:1]:
        for path in sorted(folder.glob("*.xml")):
            yield path.name, tables.unpacked(path, _MAX_REPORT)
        return
    for archive in sorted(data_dir.rglob(ARCHIVE))[:1]:
        try:
            raw = io.BytesIO(tables.unpacked(archive, _MAX_REPORTS))
            with tarfile.open(fileobj=raw, mode="r:") as tar:
                members = [m for m in tar if m.isfile() and m.name.endswith(".xml")]
                _check_sizes(archive, members)  # a sparse member is larger than its archive
                for member in sorted(members, key=lambda m: Path(m.name).name):
                    yield Path(member.name).name, tar.extractfile(member).read()
        except tarfile.TarError as error:
            raise UserError(f"{archive} cannot be read ({error}): download it again") from error
        return
    advice = " ".join(INSTRUCTIONS.split())
    raise UserError(f"neither {FOLDER} nor {ARCHIVE} in {data_dir}: {advice}")


def _check_sizes(archive: Path, members: list[tarfile.TarInfo]) -> None:
    large = [member.name for member in members if member.size > _MAX_REPORT]
    if large or sum(member.size for member in members) > _MAX_REPORTS:
        what = f"its {large[0]} holds" if large else "its reports hold"
        limit = (_MAX_REPORT if large else _MAX_REPORTS) >> 20
        raise UserError(f"{archive}: {what} more than {limit} MB: this is not what was published")


def _views(data_dir: Path) -> dict[str, str]:
    """Key of the image -> 'frontal', 'pa', ..., or '' if the table leaves it open."""
    of_kaggle, of_dicom = ("filename", "projection"), ("imageid", "view position")
    for pattern, (name, view) in ((PROJECTIONS, of_kaggle), (METADATA, of_dicom)):
        for path in sorted(data_dir.rglob(pattern)):
            rows = tables.read(path, (name, view))
            return {image_key(row[name]): row[view].lower() for _, row in rows}
    raise UserError(
        f"neither {PROJECTIONS} nor {METADATA} in {data_dir}, so which images are frontal is not "
        "known: add one, or set data.options.views to 'all'"
    )


DESCRIPTION = "7,470 chest radiographs of 3,851 reports of Indiana University."
INSTRUCTIONS = """
download NLMCXR_reports.tgz and NLMCXR_png.tgz (or NLMCXR_dcm.tgz) from
https://openi.nlm.nih.gov/faq, unpack the images, put reports and images into one folder with
indiana_projections.csv (raddar/chest-xrays-indiana-university on Kaggle), which says what is
frontal, or nlmcxr_dicom_metadata.csv, and give it as data.dir
"""
