"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

from __future__ import annotations

LONGEST = 2000  # characters of a message: more is no clear line


class InputError(ValueError):
    """Something the user gave cannot be used.

    Its text is one line that names the file, the line where there is one, what is wrong and what
    to do about it. The command line prints that line and exits with 2, without a traceback.

    Parameters
    ----------
    message : str
        What is wrong, then the remedy.
    source : str, optional
        The file the message is about; it is put in front.
    line : int, optional
        The line of that file, counted from 1.

    Examples
    --------
    >>> print(InputError("no label; add one or remove the row", source="data.csv", line=3))
    data.csv, line 3: no label; add one or remove the row
    """

    def __init__(self, message: str, *, source: str | None = None, line: int | None = None):
        if source is not None:
            place = source if line is None else f"{source}, line {line}"
            message = f"{place}: {message}"
        message = one_line(message)
        if len(message) > LONGEST:  # a name of a file can be longer than a page
            message = f"{message[: LONGEST // 2 - 1]}…{message[-LONGEST // 2 :]}"
        super().__init__(message)


def one_line(message: str) -> str:
    """`message` with everything escaped that could break the line or the terminal.

    Messages quote what users wrote, and a file name or a column name may hold a line break, a
    terminal code, or a surrogate that no encoding can print.

    Examples
    --------
    >>> print(one_line("a file called 'new\\nline.csv'"))
    a file called 'new\\nline.csv'
    """
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)


def quoted(value: object, limit: int = 40) -> str:
    """`value` as a short quotation for a message: its repr, cut in the middle when long.

    Examples
    --------
    >>> quoted("label")
    "'label'"
    >>> len(quoted("x" * 1000))
    42
    """
    try:
        text = str(value)
    except RecursionError:  # JSON that was nested just not too deeply to be read
        text = "something deeply nested"
    if len(text) > limit:
        half = (limit - 1) // 2
        text = text[:half] + "…" + text[len(text) - (limit - 1 - half) :]
    return repr(text)
