"""The error for what a caller must change, and how a piece of the caller's text is shown in it."""

__all__ = ["InvalidArgument", "quote"]


class InvalidArgument(ValueError):
    """The caller must change an argument: `field` names it, `cause` says what is wrong, `fix` what to do."""

    def __init__(self, field: str, cause: str, fix: str) -> None:
        super().__init__(f"{field}: {cause} {fix}".rstrip())
        self.field = field
        self.cause = cause
        self.fix = fix


def quote(text: str, limit: int = 40) -> str:
    """Show a piece of the caller's text within a message: on one line, and never all of a long one."""
    return repr(text if len(text) <= limit else f"{text[:limit]}...")
