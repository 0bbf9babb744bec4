"""Numbers of bytes, for people."""


def said(count: int) -> str:
    """In the unit that suits, as disks are sold: a megabyte is 10⁶ bytes."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 10**6 else f"{count / 1e3:.1f} kB"
