"""The one exception that a user's mistake raises."""


class LiDiTError(ValueError):
    """Bad input: one sentence that names the value, what was expected, and the remedy."""
