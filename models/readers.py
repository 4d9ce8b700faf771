"""Files -> rows of (text, label), and every way in which a file can be wrong.

A format is a generator of `Row`s that reads its file line by line; `rows` picks the format, and
`read_dataset` collects the rows. Bytes become text in one place (`decoded_lines`), so NUL bytes,
invalid UTF-8 and unreadable files are reported alike for every format. What is wrong with one row
goes to ``bad``, which raises it, or counts it, and then the reader goes on.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import itertools
import json
import os
import re
import shlex
import stat
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from .dataset import Dataset
from .datasets import BUILTIN
from .errors import InputError, one_line, quoted

FASTTEXT_PREFIX = "__label__"
STDIN = "standard input"  # what messages call it
FORMATS = (
    "a .csv, .tsv, .jsonl or fastText (.txt, .ft) file, or a folder with one sub-folder a class"
)
LONGEST = 1 << 27  # characters of a field, bytes of a line: a file without line ends is no text


class Row(NamedTuple):
    """One text, its label ("" if it has none), and the line and file it was found at."""

    text: str
    label: str
    line: int
    file: str


Bad = Callable[[InputError], None]


def fatal(error: InputError) -> None:
    """A row that is wrong ends the reading."""
    raise error


class Skipped:
    """Rows that are wrong are counted, the first few shown, and left out.

    Parameters
    ----------
    source : str
        What :meth:`told` calls the file.
    shown : int
        How many are printed to standard error, each with its line.
    """

    def __init__(self, source: str, shown: int = 5) -> None:
        self.source, self.shown, self.count = source, shown, 0

    def __call__(self, error: InputError) -> None:
        self.count += 1
        if self.count <= self.shown:
            from tqdm import tqdm

            tqdm.write(f"skipped: {error}", file=sys.stderr)  # beside a progress bar

    def told(self) -> None:
        """Say how many there were, if any."""
        if self.count:
            some = f" (the first {self.shown} are shown)" if self.count > self.shown else ""
            rows = "1 bad row was" if self.count == 1 else f"{self.count} bad rows were"
            print(one_line(f"{self.source}: {rows} skipped{some}"), file=sys.stderr)


def read_dataset(
    source: str | os.PathLike[str],
    text_column: str = "text",
    label_column: str = "label",
    labelled: bool = True,
    bad: Bad = fatal,
) -> Dataset:
    """Read texts and labels from a file, a folder or a built-in set.

    Parameters
    ----------
    source : str or path
        A .csv, .tsv or .jsonl file; a fastText file (lines ``__label__x text``; suffix .txt or
        .ft, or any other suffix if the first line starts so); each of them also compressed, with
        .gz at the end; a folder with one sub-folder a class; the name of a built-in set; or "-"
        for standard input, whose first line tells the format. What exists on disk wins over a name.
    text_column, label_column : str
        The columns of .csv and .tsv and the keys of .jsonl that hold the text and the label.
    labelled : bool
        False if rows may have no label (theirs is then ""). In a fastText file that is not
        labelled every line is a text, blank lines too.
    bad : function of an InputError
        Called for each row that is wrong; :class:`Skipped` counts them. By default it is raised.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If anything is wrong with the file; one line naming file, line and remedy.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "days.csv")
    ...     _ = path.write_text("text,label\\na fine day,good\\nrain,bad\\n", encoding="utf-8")
    ...     data = read_dataset(path)
    >>> data.texts, data.labels, data.lines
    (['a fine day', 'rain'], ['good', 'bad'], [2, 3])
    """
    path = os.fspath(source)
    if path != "-" and not exists(path):
        return builtin(path)
    found = list(rows(path, text_column, label_column, labelled, bad))
    path = STDIN if path == "-" else path
    if not found:
        raise InputError(nothing_in(path, bad), source=path)
    is_folder = os.path.isdir(path)
    return Dataset(
        texts=[row.text for row in found],
        labels=[row.label for row in found],
        lines=[row.line for row in found],
        source=path,
        files=[row.file for row in found] if is_folder else None,
    )


def rows(
    path: str,
    text_column: str = "text",
    label_column: str | None = "label",
    labelled: bool = True,
    bad: Bad = fatal,
) -> Iterator[Row]:
    """The rows of the file or folder at `path`, one at a time, in the format its name says.

    With ``labelled=False`` and the ``label_column`` None, a table's labels are not looked at.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "days.txt")
    ...     _ = path.write_text("__label__good a fine day\\n__label__bad rain\\n")
    ...     [(row.label, row.text) for row in rows(str(path))]
    [('good', 'a fine day'), ('bad', 'rain')]
    """
    if os.path.isdir(path):
        return folder_rows(path, bad)
    if path == "-":
        path = Piped.standard_input()
        suffix = path.suffix
    elif os.path.isfile(path):
        suffix = suffix_of(path)
    else:
        raise InputError("not a regular file; copy what it gives to a file first", source=path)
    if suffix == ".csv":
        return table_rows(path, ",", text_column, label_column, labelled, bad)
    if suffix == ".tsv":
        return table_rows(path, "\t", text_column, label_column, labelled, bad)
    if suffix == ".jsonl":
        return json_rows(path, text_column, label_column, labelled, bad)
    if suffix in (".txt", ".ft") or looks_like_fasttext(path):
        return fasttext_rows(path, labelled, bad)
    problem = f"no format goes with the suffix {quoted(suffix)}"
    raise InputError(f"{problem}; give {FORMATS}", source=path)


def suffix_of(path: str) -> str:
    """What tells the format: the end of the name, small, without that of a compressed file.

    >>> suffix_of("Days.CSV.gz")
    '.csv'
    """
    return os.path.splitext(path.lower().removesuffix(".gz"))[1]


TABLES = (".csv", ".tsv", ".jsonl")  # their rows have names for what is in them


class Piped(str):
    """Standard input under the name that messages have for it; its lines come only once."""

    lines: Iterable[bytes] = ()
    suffix: str = ""

    @classmethod
    def standard_input(cls) -> Piped:
        """Read the first line, which tells the format."""
        piped = cls(STDIN)
        if sys.stdin is None:
            raise InputError("closed; pipe texts into it, or give a file", source=STDIN)
        stream = sys.stdin.buffer
        first = stream.readline(LONGEST + 1)
        piped.lines = itertools.chain([first] if first else [], limited(stream))
        start = first.removeprefix(b"\xef\xbb\xbf").lstrip()
        piped.suffix = ".csv"
        if start.startswith(b"{"):
            piped.suffix = ".jsonl"
        elif start.startswith(FASTTEXT_PREFIX.encode()):
            piped.suffix = ".ft"
        elif b"\t" in start:
            piped.suffix = ".tsv"
        return piped


# --- bytes -> lines --------------------------------------------------------------------------


@contextmanager
def opened(path: str) -> Iterator[Iterable[bytes]]:
    """The lines of a file, unpacked if it is a .gz file, or of standard input."""
    if isinstance(path, Piped):
        yield path.lines
        return
    with unpacked(path) as file:
        yield limited(file)


@contextmanager
def unpacked(path: str) -> Iterator[Any]:
    """A binary file; what is read from a .gz file is what was packed."""
    packed = path.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = str(error) or "it ends too early"
        raise InputError(
            f"cannot be unpacked ({reason}); the file is damaged: fetch it again", source=path
        ) from None


def limited(file: Any) -> Iterator[bytes]:
    """The lines of a binary file, none of them longer than memory bears."""
    while line := file.readline(LONGEST + 1):
        yield line


def decoded_lines(
    path: str, universal: bool = False, bad: Bad = fatal
) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers from 1, line ends kept, without its BOM.

    A line ends at "\\n"; with `universal` also at "\\r" and "\\r\\n", as the csv module wants it.
    Cutting before decoding is safe: no byte of a longer UTF-8 character equals a line end.
    """
    number = 0
    try:
        with opened(path) as file:
            for chunk in file:
                if len(chunk) > LONGEST:
                    raise InputError(
                        f"more than {LONGEST:,} bytes without a line end; give {FORMATS}",
                        source=path,
                        line=number + 1,
                    )
                for raw in chunk.splitlines(keepends=True) if universal else [chunk]:
                    number += 1
                    if number == 1:
                        refuse_other_kinds(raw, path)
                    try:
                        text = decoded(raw, path, number)
                    except InputError as error:
                        bad(error)
                        continue
                    yield number, text
    except OSError as error:
        raise unreadable(path, error) from None


def decoded(raw: bytes, path: str, number: int) -> str:
    """One line as text, or what is wrong with its bytes."""
    if number == 1:
        refuse_other_kinds(raw, path)
    nul = raw.find(0)
    if nul >= 0:
        raise InputError(
            f"a NUL byte (byte {nul + 1} of the line); "
            "the file is damaged or not UTF-8 text: remove the byte or save the file as UTF-8",
            source=path,
            line=number,
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"not valid UTF-8 (byte {error.start + 1} of the line, 0x{raw[error.start]:02x}); "
            f"save the file as UTF-8, or convert it: {iconv('WINDOWS-1252', path)}",
            source=path,
            line=number,
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text


def refuse_other_kinds(start: bytes, path: str) -> None:
    """Compressed files, and the UTF-16 of spreadsheets: how the file starts gives them away."""
    if start.startswith(b"\x1f\x8b"):
        old = shlex.quote(path)
        remedy = f"give it a name that ends with .gz: mv {old} {shlex.quote(f'{path}.gz')}"
        if path == STDIN:
            remedy = "pipe it through gunzip -c"
        elif path.lower().endswith(".gz"):
            remedy = f"it was compressed twice: gunzip {old}"
        raise InputError(f"is compressed (gzip); {remedy}", source=path)
    name, looks = encoding_of(start)
    if name:
        raise InputError(
            f"the file {'looks like' if looks else 'is'} {name}; save it as UTF-8, or convert it: "
            f"{iconv(name, path)}",
            source=path,
            line=1,
        )


def encoding_of(start: bytes) -> tuple[str, bool]:
    """The encoding of a file that starts so, "" for UTF-8; and whether that is only likely.

    Spreadsheets put a mark in front. Without it, every second byte of Latin text is 0.
    """
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32", False
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16", False
    for name, high, low in (("UTF-16LE", start[1::2], start[::2]),
                            ("UTF-16BE", start[::2], start[1::2])):  # fmt: skip
        if len(high) > 3 and 2 * high.count(0) > len(high) and not low.count(0):
            return name, True
    return "", False


def iconv(encoding: str, path: str) -> str:
    """The command that converts the file at `path`."""
    convert = f"iconv -f {encoding} -t UTF-8"
    if path == STDIN:
        return convert
    old = shlex.quote(path)
    if isinstance(path, InFolder):  # its new content takes its place
        new = shlex.quote(f"{path}.new")
        return f"{convert} {old} > {new} && mv {new} {old}"
    packed = path.lower().endswith(".gz")
    stem, suffix = os.path.splitext(path[: -len(".gz")] if packed else path)
    new = shlex.quote(f"{stem}.utf8{suffix}")
    return f"gunzip -c {old} | {convert} > {new}" if packed else f"{convert} {old} > {new}"


def exists(path: str) -> bool:
    """Whether there is something at `path`; an InputError if that cannot be told."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError:  # a NUL in the name: no file can be called that
        return False
    return True


def unreadable(path: str, error: OSError) -> InputError:
    """The operating system's refusal, with what to do about it."""
    reason = (error.strerror or str(error)).lower()
    remedy = "give another file"
    if isinstance(error, PermissionError):
        remedy = f"make it readable: chmod u+r {shlex.quote(path)}"
    return InputError(f"cannot be read ({reason}); {remedy}", source=path)


def nothing_in(path: str, bad: Bad = fatal) -> str:
    """Why a file gave no rows; ``bad`` knows how many were wrong."""
    if count := getattr(bad, "count", 0):
        wrong = "its only row was bad and" if count == 1 else f"all {count} rows were bad and"
        return f"{wrong} skipped, so nothing is left; correct them, or give another file"
    if path == STDIN or os.path.getsize(path) == 0:
        return f"the file is empty; give {FORMATS}"
    return "the file has no rows; add at least one text under the header, or one line a text"


def builtin(name: str) -> Dataset:
    """The built-in set called `name`; nothing exists on disk at that path."""
    if name in BUILTIN:
        return BUILTIN[name]()
    names = " or ".join(sorted(BUILTIN))
    raise InputError(
        f"no such file, folder or built-in set; give {FORMATS}, or a built-in set: {names}",
        source=name,
    )


# --- .csv and .tsv ---------------------------------------------------------------------------


def table_rows(
    path: str,
    delimiter: str,
    text_column: str,
    label_column: str | None,
    labelled: bool,
    bad: Bad = fatal,
) -> Iterator[Row]:
    """Rows of a table with a header; blank lines between rows do not count."""
    records = table_records(path, delimiter, bad)
    try:
        line, header = next(records)
    except StopIteration:
        return
    refuse_other_delimiter(header, delimiter, path, line)
    text_at = column(header, text_column, "--text-column", path, line)
    label_at = None
    if label_column is not None and (labelled or label_column in header):
        label_at = column(header, label_column, "--label-column", path, line)
    for line, record in records:
        if len(record) == 1 < len(header) and not record[0].strip():
            continue  # a line of blanks
        try:
            if len(record) != len(header):
                raise InputError(
                    f"{fields(len(record))}, but the header has {len(header)}; "
                    'put "quotes" around a field that holds a separator or a line break',
                    source=path,
                    line=line,
                )
            label = "" if label_at is None else record[label_at].strip()
            if labelled:
                check_label(label, f"in column {quoted(label_column)}", path, line)
        except InputError as error:
            bad(error)
            continue
        yield Row(record[text_at], label, line, path)


def table_records(path: str, delimiter: str, bad: Bad = fatal) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record and the line it starts on.

    The csv module refuses fields beyond a limit that holds for the whole process. It is raised,
    never lowered again, so that two readers at a time cannot disturb each other.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    here: list[tuple[int, str]] = []  # the lines of the record that is being read
    again: list[tuple[int, str]] = []  # lines to read once more, the first at the end
    source = decoded_lines(path, True, bad)

    def lines() -> Iterator[str]:
        while True:
            line = again.pop() if again else next(source, None)
            if line is None:
                return
            here.append(line)
            yield line[1]

    while True:
        # strict: without it the csv module swallows the rest of the file after an unclosed quote
        reader = csv.reader(lines(), delimiter=delimiter, strict=True)
        try:
            for record in reader:
                if record:  # a blank line is a record without fields
                    yield here[0][0], record
                here.clear()
            return
        except csv.Error:
            (first, _), (last, _) = here[0], here[-1]
            reached = f" (read up to line {last})" if last > first else ""
            error = InputError(
                f"a quoted field that starts in this row is not closed properly{reached}; "
                'close it with one " and write every " inside it twice',
                source=path,
                line=first,
            )
        bad(error)
        again += reversed(here[1:])  # only the line that it began with is lost
        here.clear()


def refuse_other_delimiter(header: list[str], delimiter: str, path: str, line: int) -> None:
    """One column whose name holds another separator: the file is of another kind."""
    if len(header) > 1:
        return
    for other, remedy in (
        ("\t", "name the file .tsv"),
        (";", "save it separated by commas"),
        (",", "name the file .csv"),
    ):
        if other != delimiter and other in header[0]:
            raise InputError(
                f"the header {quoted(header[0])} is one column, separated by {other!r} "
                f"rather than {delimiter!r}; {remedy}",
                source=path,
                line=line,
            )


def column(header: list[str], name: str, option: str, path: str, line: int) -> int:
    """The place of the column called `name`."""
    count = header.count(name)
    if count == 0:
        raise missing_name("column", name, header, option, path, line)
    if count > 1:
        raise InputError(
            f"{count} columns are called {quoted(name)}; rename all but one",
            source=path,
            line=line,
        )
    return header.index(name)


def missing_name(
    kind: str, name: str, names: Sequence[str], option: str, path: str, line: int
) -> InputError:
    """What to say when a column or key is not there: what is, and which one may be meant."""
    folded = {other.strip().casefold(): other for other in names}
    near = difflib.get_close_matches(name.strip().casefold(), folded, n=1)
    remedy = f"pass {option} with one of them"
    if near:
        remedy = f"perhaps {option} {shlex.quote(folded[near[0]])}"
    shown = ", ".join(quoted(other) for other in names[:20]) + (", …" if len(names) > 20 else "")
    return InputError(
        f"no {kind} {quoted(name)}; there is {shown or 'none at all'}: {remedy}",
        source=path,
        line=line,
    )


def fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def check_label(label: str, place: str, path: str, line: int | None) -> None:
    """A label is a word on one printable line: predictions are printed one a line."""
    if not label:
        raise InputError(f"no label {place}; fill it in or remove the row", source=path, line=line)
    for c in label:
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp"):
            raise InputError(
                f"the label {quoted(label)} {place} holds {c!r}; "
                "labels have no line breaks or control characters: rename it",
                source=path,
                line=line,
            )


# --- .jsonl ----------------------------------------------------------------------------------


def json_rows(
    path: str, text_key: str, label_key: str | None, labelled: bool, bad: Bad = fatal
) -> Iterator[Row]:
    """Rows of a file with one JSON object a line; blank lines are skipped."""
    for line, content in decoded_lines(path, bad=bad):
        if not content.strip():
            continue
        try:
            row = json_row(content, path, line, text_key, label_key, labelled)
        except InputError as error:
            bad(error)
            continue
        yield row


def json_row(
    content: str, path: str, line: int, text_key: str, label_key: str | None, labelled: bool
) -> Row:
    """The row on one line."""
    record = json_object(content, path, line)
    if text_key not in record:
        raise missing_name("key", text_key, list(record), "--text-column", path, line)
    text = record[text_key]
    if not isinstance(text, str):
        raise InputError(
            f"the text under {quoted(text_key)} is {json_kind(text)}; make it a string",
            source=path,
            line=line,
        )
    if label_key is None:
        return Row(text, "", line, path)
    if labelled and label_key not in record:
        raise missing_name("key", label_key, list(record), "--label-column", path, line)
    label = json_label(record.get(label_key), label_key, labelled, path, line)
    return Row(text, label, line, path)


def json_object(content: str, path: str, line: int) -> dict[str, Any]:
    """The object on one line."""
    remedy = "write one JSON object a line"
    try:
        record = json.loads(content.rstrip())
    except json.JSONDecodeError as error:
        problem = f"broken JSON at column {error.colno} ({error.msg[:1].lower()}{error.msg[1:]})"
        raise InputError(f"{problem}; {remedy}", source=path, line=line) from None
    except RecursionError:
        problem = "JSON that is nested too deeply"
        raise InputError(f"{problem}; {remedy}", source=path, line=line) from None
    except ValueError as error:  # a number with more digits than Python turns into an int
        raise InputError(f"broken JSON ({error}); {remedy}", source=path, line=line) from None
    if not isinstance(record, dict):
        raise InputError(f"{json_kind(record)}, not an object; {remedy}", source=path, line=line)
    return record


def json_label(value: object, key: str, labelled: bool, path: str, line: int) -> str:
    """A label as text: strings as they are, integers and booleans as JSON writes them."""
    if value is None and not labelled:
        return ""
    if isinstance(value, (bool, int)):
        return json.dumps(value)
    if isinstance(value, str):
        label = value.strip()
        if labelled:
            check_label(label, f"under {quoted(key)}", path, line)
        return label
    raise InputError(
        f"the label under {quoted(key)} is {json_kind(value)}; "
        "make it a string, an integer or a boolean",
        source=path,
        line=line,
    )


def json_kind(value: object) -> str:
    """What JSON calls a value, for messages."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "an object")


# --- fastText --------------------------------------------------------------------------------

LABELLED_LINE = re.compile(rf"[ \t]*{FASTTEXT_PREFIX}([^ \t]*)[ \t]*(.*)", re.DOTALL)
ANOTHER_LABEL = re.compile(rf"(?:^|[ \t]){FASTTEXT_PREFIX}")


def fasttext_rows(path: str, labelled: bool, bad: Bad = fatal) -> Iterator[Row]:
    """Rows of lines ``__label__x text``. Blank lines are skipped where labels are wanted."""
    for line, content in decoded_lines(path, bad=bad):
        content = content.rstrip("\r\n")
        match = LABELLED_LINE.match(content)
        if match is None and not labelled:
            yield Row(content, "", line, path)
        elif match is None and content.strip():
            problem = f"no label; start the line with {FASTTEXT_PREFIX}x, x being the label"
            bad(InputError(problem, source=path, line=line))
        elif match is not None:
            label, text = match.groups()
            try:
                if labelled:
                    check_label(label, f"after {FASTTEXT_PREFIX}", path, line)
                    refuse_second_label(text, path, line)
            except InputError as error:
                bad(error)
                continue
            yield Row(text, label, line, path)


def refuse_second_label(text: str, path: str, line: int) -> None:
    """fastText takes every word with the prefix for a label; here a text has one label."""
    if ANOTHER_LABEL.search(text):
        raise InputError(
            f"several {FASTTEXT_PREFIX} on one line; keep one label a text",
            source=path,
            line=line,
        )


def looks_like_fasttext(path: str) -> bool:
    """Whether the first line that is not blank starts with a label."""
    try:
        with opened(path) as file:
            first = next((line for line in file if line.strip()), b"")
    except OSError as error:
        raise unreadable(path, error) from None
    return first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(FASTTEXT_PREFIX.encode())


# --- a folder with one sub-folder a class ----------------------------------------------------


class InFolder(str):
    """The path of a text that is a file of its own: a copy beside it would be one more text."""


def folder_rows(path: str, bad: Bad = fatal) -> Iterator[Row]:
    """Every regular file of every sub-folder, sorted, so that the order is the same everywhere."""
    labels = [name for name in visible(path) if os.path.isdir(os.path.join(path, name))]
    if not labels:
        raise InputError(
            "a folder without sub-folders; make one sub-folder a class, with its texts as files",
            source=path,
        )
    number = 0
    for label in labels:
        inside = os.path.join(path, label)
        check_label(label, "(the folder's name)", inside, None)
        before = number
        for name in visible(inside):
            file = InFolder(os.path.join(inside, name))
            try:
                text = whole_text(file) if is_regular(file) else None
            except InputError as error:
                number += 1
                bad(error)
                continue
            if text is not None:
                number += 1
                yield Row(text, label, number, file)
        if number == before:
            raise InputError(
                "no text in this class; put its texts there as files, or remove the folder",
                source=inside,
            )


def nested_folders(path: str) -> int:
    """How many folders lie inside the classes of a folder of texts: nobody reads them."""
    inside = [os.path.join(path, label) for label in visible(path)]
    places = [os.path.join(x, name) for x in inside if os.path.isdir(x) for name in visible(x)]
    return sum(map(os.path.isdir, places))


def visible(path: str) -> list[str]:
    """The names in a folder, sorted, hidden ones left out."""
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise unreadable(path, error) from None


def is_regular(path: str) -> bool:
    """A file, or a link to one. A broken link is reported, not passed over."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise unreadable(path, error) from None


def whole_text(path: str) -> str:
    """A file's text, without the line break that ends it."""
    text = "".join(line for _, line in decoded_lines(path))
    return text.removesuffix("\n").removesuffix("\r")
