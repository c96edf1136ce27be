"""What a probe gives, and the steps at which it is asked."""

from collections.abc import Iterator

Row = tuple[str | None, str | None, int | None, str, float]  # split, layer, depth, metric, value
Rows = Iterator[Row]


def schedule(steps: int, every: int) -> list[int]:
    """Steps that are measured: 0, the powers of two below `every`, the multiples of `every`, and the last."""
    powers = {2**k for k in range(every.bit_length()) if 2**k < min(every, steps)}
    return sorted({0, steps} | powers | set(range(every, steps, every)))
