"""Numbers as people read them."""

from __future__ import annotations


def as_bytes(count: float) -> str:
    """Decimal, as disks and graphics cards are sold: 1500 -> "1.50 kB"."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.{_places(count / size)}f} {unit}"
    return f"{count:.0f} B"


def _places(number: float) -> int:
    """The number of digits behind the point, for three digits in all."""
    return 2 if number < 10 else 1 if number < 100 else 0


def as_count(count: float) -> str:
    """Write 1106328864 as "1.106 billion"."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3f} {word}"
    return f"{count:,.0f}"


def as_flops(count: float) -> str:
    """Write 12.3e12 as "12.3 TFLOP"."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if count >= size:
            return f"{count / size:.3g} {prefix}FLOP"
    return f"{count / 1e6:.3g} MFLOP"


def as_time(seconds: float) -> str:
    """A time in the unit that leaves one to three digits before the point."""
    for size, word in ((86400 * 2, "days"), (3600, "hours"), (60, "minutes"), (1, "s")):
        if seconds >= size:
            unit = 86400 if word == "days" else size
            return f"{seconds / unit:.1f} {word}"
    return f"{seconds * 1000:.1f} ms"


def as_times(count: float) -> str:
    """Write 0.25 as "0.25 times", 80.2 as "80 times"."""
    return f"{as_count(count) if count >= 10 else f'{count:.2g}'} times"
