"""Markdown whose cells cannot act as markup."""

import re
from collections.abc import Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A list of one Markdown table, with cells as `plain` text; an empty list without rows."""
    lines = [[*map(plain, header)], ["---"] * len(header), *([*map(plain, row)] for row in rows)]
    return ["\n".join(f"| {' | '.join(line)} |" for line in lines)] if rows else []


def plain(cell: Any) -> str:  # noqa: ANN401
    """One line of Markdown in which names of folders and files cannot act as markup."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(cell).split())).replace("<", "&lt;")
    # An underscore in a word is no markup: names such as ssl_gan stay readable.
    return re.sub(r"([\\|`*$~]|(?<=\])\(|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
