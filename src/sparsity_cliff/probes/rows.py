"""The rows that a probe returns, and the steps that are measured."""

from collections.abc import Iterator

Row = tuple[str | None, str | None, int | None, str, float]  # split, layer, depth, metric, value
ExampleRow = tuple[*Row, int]  # of one held-out example, with its number
Rows = Iterator[Row]


def schedule(steps: int, every: int) -> list[int]:
    """The steps that are measured: 0, the powers of two below `every`, the multiples of `every`, and the last step."""
    powers = {2**k for k in range(every.bit_length()) if 2**k < min(every, steps)}
    return sorted({0, steps} | powers | set(range(every, steps, every)))
