"""Names of references: what a user types, brought to one form and checked, in one place. A name is a file's name."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Sequence

from ..words import ReferenceProblem, SettingsError

SUFFIX = ".safetensors"
LONGEST = 120  # bytes; some file systems have 143 for a file's name, its ending and a number included
_NUMBERED = LONGEST + 10  # a store may have added a number
_NAMED = 5  # of the names that are there, in a sentence
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$",
             *(port + number for port in ("com", "lpt") for number in "123456789¹²³")}
_INVISIBLE = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # and yet letters or marks, by their category


def normalised(name: str) -> str:
    """A name as stores know it: composed letters (NFC), no spaces around it, every space a plain one, no variation
    selectors (which only say how an emoji looks), and without the ending of its file."""
    letters = (letter for letter in unicodedata.normalize("NFC", name) if not "\ufe00" <= letter <= "\ufe0f")
    plain = "".join(" " if unicodedata.category(letter) == "Zs" else letter for letter in letters).strip()
    return plain[: -len(SUFFIX)].rstrip() if plain.lower().endswith(SUFFIX) else plain


def checked(name: str, longest: int = _NUMBERED) -> str:
    """The name in its one form.

    Raises :class:`SettingsError` for one that cannot be a file's name on every system, and for one with invisible
    letters or with marks that turn the direction of writing, which nobody could tell from another.
    """
    found = normalised(name)
    bad = not found.isprintable() or (set('<>:"/\\|?*') | _INVISIBLE) & set(found) or found != found.strip(".")
    if bad or not 0 < len(found.encode()) <= longest or found.split(".")[0].rstrip().lower() in _RESERVED:
        raise SettingsError(f"{name[:100]!r} cannot be a reference's name; use letters, digits, spaces, - and _, at "
                            f"most {LONGEST} bytes.")
    return found


def new(name: str) -> str:
    """The name of a reference that is yet to be made, in its one form. Raises as :func:`checked` does."""
    return checked(name, LONGEST)


def is_name(name: str) -> bool:
    """Whether a file's name, without its ending, is one that a user can ask for."""
    try:
        checked(name)
    except SettingsError:
        return False
    return True


def free(name: str, taken: Callable[[str], bool]) -> str:
    """``name``, or the first of ``name-2``, ``name-3``… for which ``taken`` is false."""
    number, found = 1, name
    while taken(found):
        number += 1
        found = f"{name}-{number}"
    return found


def missing(name: str, names: Sequence[str], where: str) -> ReferenceProblem:
    """The sentence for a reference that is not there: of ``names``, oldest first, it tells the nearest few, then the
    newest, and how many more there are."""
    if not names:
        return ReferenceProblem(f"There is no reference {name!r} {where}; save one first.")
    lower = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), lower, _NAMED, 0.5) if len(names) > _NAMED else []
    few = list(dict.fromkeys([lower[each] for each in near] + list(reversed(names))))[:_NAMED]
    more = f" and {len(names) - len(few)} more" if len(names) > len(few) else ""
    return ReferenceProblem(f"There is no reference {name!r} {where}; there are: {', '.join(few)}{more}.")
