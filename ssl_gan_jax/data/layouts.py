"""Folders of images as users have them: classes and parts by the names of folders."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_gan_jax.data import outputs
from ssl_gan_jax.data.names import class_key, is_missing, split_of
from ssl_gan_jax.errors import UserError

_ANNOTATIONS = re.compile(
    r"((lung|lungs|left|right|heart|manual|binary|gt|ground truth|segmentation|infection) ?)*"
    r"(masks?|segmentations?|annotations?|heat ?maps?|overlays?|contours?|bounding boxes|saliency)"
)
_MASK_FILE = re.compile(r"[ _-](mask|masks|seg|segmentation|annotation)([ _-]?\d+)?$")
_TAKE = re.compile(r"(.*\d.*?)[ _-]+(\d{1,4}|[a-z]|pa|ap|lat|lateral|frontal|left|right)", re.I)
_PERSON = re.compile(r"(?:.*[^a-z])?((?:patient|person|subject|case|pat|subj|pid)[ _-]?\d+)", re.I)


class Film(NamedTuple):
    """An image, and what its folders say of it."""

    path: str
    label: str  # name of the folder, '' for unlabeled
    split: str  # 'train', 'val', 'test', '' for none


class Tree(NamedTuple):
    """What the folders of a data set say."""

    films: list[Film]
    splits: tuple[str, ...]  # names of the folders that are parts
    left_out: Counter[str]  # reason -> how many files


def read_tree(paths: Sequence[str], top: str = "") -> Tree:
    """Read class and part of each image from the names of its folders.

    CLASS/..., SPLIT/CLASS/..., CLASS/SPLIT/..., any of them within wrapper folders. Folders and
    files of masks, heat maps and the like are left out; so are images outside of any class. Raises
    `UserError`, which names the folder `top`, if some folders beside each other are parts, and
    others are not.
    """
    kept = without_annotations(paths)
    folders = _below_wrapper({path: tuple(path.split("/")[:-1]) for path in kept})
    names = {above[0] for above in folders.values() if above}
    parts = _parts(names)
    others = sorted(name for name in names if name not in parts and not is_missing(name))
    if others and len(set(parts.values())) > 1:
        raise UserError(
            f"{top}: the folders {', '.join(sorted(parts))} are parts of a data set, and "
            f"{', '.join(others)} are not; put each class into every part, or move them away"
        )
    if parts and not others:
        # Unlabeled images beside the parts can only train.
        split = {path: parts.get("".join(above[:1]), "train") for path, above in folders.items()}
        in_parts = {p: above[1:] for p, above in folders.items() if parts.keys() & {*above[:1]}}
        folders |= _below_wrapper(in_parts)
    else:  # CLASS/SPLIT, or no parts at all
        second = {path: "".join(above[1:2]) for path, above in folders.items()}
        parts = _parts(second.values())
        if len(set(parts.values())) < 2:
            parts = {}
        split = {path: parts.get(name, "") for path, name in second.items()}
    label = {path: above[0] for path, above in folders.items() if above}
    films = [Film(p, "" if is_missing(name) else name, split[p]) for p, name in label.items()]
    left_out = {"masks and the like": len(paths) - len(kept)}
    left_out["outside of any class"] = len(kept) - len(films)
    return Tree(films, tuple(sorted(parts)), +Counter(left_out))


def without_annotations(paths: Sequence[str]) -> list[str]:
    """Return the paths that are no masks, heat maps or the like, by their folders and names.

    A folder called so is one unless another beside it has the word as well: mask and no_mask are
    classes. A file is one if the same name without `_mask` is beside it.
    """
    folders, beside = {path.rpartition("/")[0] for path in paths}, defaultdict(set)
    for folder in folders:
        parts = folder.split("/")
        for depth, name in enumerate(parts):
            beside["".join(f"{part}/" for part in parts[:depth])].add(name)
    dropped = tuple(
        f"{above}{name}/"
        for above, names in beside.items()
        for name in names
        if _ANNOTATIONS.fullmatch(class_key(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)))
        and not any("mask" in other.casefold() for other in names - {name})
    )
    left = {folder for folder in folders if f"{folder}/".startswith(dropped)}
    stems = {path.rpartition(".")[0].casefold() for path in paths}

    def is_kept(path: str) -> bool:
        stem = path.rpartition(".")[0].casefold()
        match = _MASK_FILE.search(stem)
        beside_film = match is not None and stem[: match.start()] in stems
        return not beside_film and path.rpartition("/")[0] not in left

    return [path for path in paths if is_kept(path)] or list(paths)


def other_files(top: Path, used: Collection[str]) -> Counter[str]:
    """Count the visible files in a folder and below that are not in `used`, by their suffix."""
    counts: Counter[str] = Counter()
    for folder, subfolders, files in os.walk(top):
        inside = {*subfolders, *files}
        if folder != os.fspath(top) and outputs.is_output(Path(folder), inside):
            counts["this program's own"] += len(files)
            subfolders.clear()
            continue
        subfolders[:] = [n for n in subfolders if not outputs.is_passed_over(n)]
        for path in (Path(folder, name) for name in files if not outputs.is_passed_over(name)):
            if path.relative_to(top).as_posix() not in used:
                counts[f"of {path.suffix.lower() or 'no suffix'}"] += 1
    return counts


def films_of_one_patient(paths: Iterable[str]) -> tuple[str, str] | None:
    """Return two files whose names suggest one patient, if such names are frequent.

    person7_1.png and person7_2.png do; img_1.png and img_2.png, or two numbers, do not.
    """
    groups, paths = defaultdict(list), list(paths)
    for path in paths:
        folder, _, name = path.rpartition("/")
        stem = name.rpartition(".")[0]
        if match := _PERSON.match(stem) or _TAKE.fullmatch(stem):
            groups[f"{folder}/{match[1].casefold()}"].append(path)
        elif match := _PERSON.fullmatch(folder.rpartition("/")[2]):
            groups[folder].append(path)
    several = [group for group in groups.values() if len(group) > 1]
    # Many small groups: one that holds half of the images is a name for the set.
    if not several or len(groups) < 2 or sum(map(len, several)) < 0.05 * len(paths):
        return None
    is_set = max(map(len, several)) > max(20, len(paths) / 4) and len(several) < 3
    return None if is_set else (several[0][0], several[0][1])


def _below_wrapper(folders: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Take away the folders that hold all others, such as "chest_xray"; unlabeled images aside.

    `folders` is path -> the names of the folders above it, as is the result.
    """
    while True:
        held = [above for above in folders.values() if above and not is_missing(above[0])]
        names, inside = {above[0] for above in held}, {above[1] for above in held if above[1:]}
        is_loose = any(len(above) == 1 for above in held)
        if len(names) != 1 or len(inside) < 1 + is_loose:
            return folders
        folders = {p: above[1:] if names & {*above[:1]} else above for p, above in folders.items()}


def _parts(names: Iterable[str]) -> dict[str, str]:
    """Return 'train', 'val' or 'test' for those names that mean it."""
    found = {name: split_of(name) for name in set(names) if not is_missing(name)}
    return {name: split for name, split in found.items() if split}
