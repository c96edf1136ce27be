"""What is wrong with data."""


class DataError(ValueError):
    """A data file that cannot be used; the message names the file."""
