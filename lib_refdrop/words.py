"""Words for the person in front of the panel or behind the API: errors that are one clear sentence, and numbers."""


class RefDropError(Exception):
    """``str(error)`` says what is wrong and what to do."""


class SettingsError(RefDropError):
    """A setting has a value that cannot be used."""


class ReferenceProblem(RefDropError):
    """A reference is missing, damaged, of another lineage, or cannot serve this run."""


class StoreProblem(RefDropError):
    """A reference could not be written: folder full, read-only, or no folder at all."""


def said(count: int) -> str:
    """In the unit that suits, as disks are sold: a megabyte is 10⁶ bytes."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 10**6 else f"{count / 1e3:.1f} kB"
