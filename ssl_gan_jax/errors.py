"""The exceptions whose messages are meant for the user."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: a one-line message that names the file, row, key or flag and says how to fix it.

    The command lines print it without a traceback and exit with code 2.
    """


class Stopped(Exception):
    """Training was asked to stop, and saved itself: the same call goes on. Says at which step."""


def check_choice(key: str, value: str, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`.

    Raises:
      UserError: it is not; the message lists the choices and names the nearest.
    """
    choices = sorted(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    # A long list helps nobody who has made a typo.
    among = f" among {', '.join(choices)}" if len(choices) <= 20 or not near else ""
    raise UserError(f"{key}: no {value!r}{among}{hint}")
