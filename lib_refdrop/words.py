"""Words for the person in front of the panel or behind the API: errors that are one clear sentence, and numbers."""


# As people type a minus, and as pages print it.
MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2014": "-", "\uff0d": "-"})


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


# What PyTorch's allocators write (CUDA, HIP, XPU, MPS; the CPU's, on Linux and on Windows), and DirectML's: only some
# of them have an error of their own for it.
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory",
              "not enough gpu video memory", "alloc_failed")


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def said(count: int) -> str:
    """In the unit that suits, to three digits; as disks are sold: a megabyte is 10⁶ bytes."""
    unit, name = (1e9, "GB") if count >= 999.5e6 else (1e6, "MB") if count >= 999.5e3 else (1e3, "kB")
    value = count / unit
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {name}"


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
