"""The one exception that speaks to the user."""


class InputError(ValueError):
    """The user's input cannot be used; the text names the file, row or key and says what would be right."""
