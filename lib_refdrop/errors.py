"""Errors whose text is one clear sentence for the person in front of the panel or behind the API."""


class RefDropError(Exception):
    """``str(error)`` says what is wrong and what to do."""


class SettingsError(RefDropError):
    """A setting has a value that cannot be used."""


class ReferenceProblem(RefDropError):
    """A reference is missing, damaged, of another lineage, or cannot serve this run."""


class StoreProblem(RefDropError):
    """A reference could not be written: folder full, read-only, or no folder at all."""
