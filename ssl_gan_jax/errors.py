"""Exceptions with messages for the user."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: a one-line message that names the file, row, key or flag and how to fix it.

    The commands print it without a traceback and exit with code 2.
    """


class Stopped(Exception):
    """Training has saved its state and stopped; the same call resumes it. Names the step."""


def check_choice(key: str, value: str, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`.

    Raises:
      UserError: it is not; the message lists the choices and the nearest choice.
    """
    choices = sorted(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    # A long list does not help after a typo.
    among = f" among {', '.join(choices)}" if len(choices) <= 20 or not near else ""
    raise UserError(f"{key}: no {value!r}{among}{hint}")
