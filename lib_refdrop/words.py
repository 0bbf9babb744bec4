"""Words for the person in front of the panel or behind the API: errors that are one clear sentence, and numbers."""


class RefDropError(Exception):
    """``str(error)`` says what is wrong and what to do."""


class SettingsError(RefDropError):
    """A setting has a value that cannot be used."""


class ReferenceProblem(RefDropError):
    """A reference is missing, damaged, of another lineage, or cannot serve this run."""


class StoreProblem(RefDropError):
    """A reference could not be written, or kept in memory: no room, read-only, or no folder at all."""


class Interrupted(RefDropError):
    """The user ended the generation while we were at work: no problem of anybody's."""


def said(count: int) -> str:
    """In the unit that suits, as disks are sold: a megabyte is 10⁶ bytes."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 10**6 else f"{count / 1e3:.1f} kB"


def first_line(error: BaseException, most: int = 200) -> str:
    """An error of somebody else's in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[0] if lines else type(error).__name__, most)


def shortened(text: str, most: int = 100) -> str:
    """A text on one line of at most so many letters, without what a terminal or page would act on."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:4 * most]).split())
    return line if len(line) <= most else line[:most - 1] + "…"


def shown(value: object, most: int = 100) -> str:
    """A value as a sentence quotes it: one line, short, and nothing that cannot be sent."""
    if isinstance(value, str):
        value = value[:most + 1]  # before it is quoted: it may be megabytes
    try:
        return shortened(repr(value), most)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists a thousand deep
        return f"such a {type(value).__name__}"
