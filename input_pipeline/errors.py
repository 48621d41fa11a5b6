"""The one exception the data pipeline raises for a person to read."""


class DataError(ValueError):
    """A data set cannot be found, prepared or read; the message names the cause and the way out."""
