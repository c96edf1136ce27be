"""The error of the data stage."""


class DataError(ValueError):
    """Data cannot be used; the message is one line that names the file or source."""
