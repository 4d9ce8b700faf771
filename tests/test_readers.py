"""Reading files: what comes out, and one clear line for every file that is wrong."""

import csv
import json
import os
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_mha.models import readers
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.errors import InputError, one_line, quoted
from tinygrad_mha.models.readers import read_dataset, rows

FEW = settings(deadline=None, max_examples=25)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


def message_of(call):
    """The text of the InputError that `call` raises, checked to be one printable line."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


# --- good files ------------------------------------------------------------------------------


def test_csv_with_quotes_line_breaks_and_more_columns(tmp_path):
    path = write(
        tmp_path,
        "days.csv",
        'id,label,text\r\n1,good,"a fine, sunny day"\r\n\r\n'
        '2, bad ,"rain\nand ""wind"""\r\n3,bad,\r\n',
    )
    data = read_dataset(path)
    assert data == Dataset(
        texts=["a fine, sunny day", 'rain\nand "wind"', ""],
        labels=["good", "bad", "bad"],
        lines=[2, 4, 6],
        source=path,
    )
    assert data.where(2) == f"{path}, line 6"


def test_tsv_with_other_column_names(tmp_path):
    path = write(tmp_path, "days.TSV", "Satz\tKlasse\nkalt, nass\tschlecht\n")
    data = read_dataset(path, text_column="Satz", label_column="Klasse")
    assert (data.texts, data.labels, data.lines) == (["kalt, nass"], ["schlecht"], [2])


def test_csv_of_old_macs_and_with_a_byte_order_mark(tmp_path):
    path = write(tmp_path, "old.csv", b"\xef\xbb\xbftext,label\rein Caf\xc3\xa9,a\rzwei,b\r")
    data = read_dataset(path)
    assert (data.texts, data.labels, data.lines) == (["ein Café", "zwei"], ["a", "b"], [2, 3])


def test_jsonl_labels_of_every_legal_kind(tmp_path):
    lines = [
        {"text": "a", "label": "x"},
        {"label": 3, "text": "b", "more": None},
        {"text": "", "label": True},
    ]
    path = write(tmp_path, "d.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, lines)) + "\r\n")
    data = read_dataset(path)
    assert data.texts == ["a", "b", ""]
    assert data.labels == ["x", "3", "true"]
    assert data.lines == [1, 3, 5]


@pytest.mark.parametrize("name", ["train.txt", "train.ft", "train.data", "train"])
def test_fasttext_by_suffix_and_by_content(tmp_path, name):
    path = write(tmp_path, name, "__label__a one two\n\n  __label__b\tthree __label\n__label__a\n")
    data = read_dataset(path)
    assert data.texts == ["one two", "three __label", ""]
    assert data.labels == ["a", "b", "a"]
    assert data.lines == [1, 3, 4]


def test_folder_with_one_subfolder_a_class(tmp_path):
    write(tmp_path, "pos/b.txt", "good\nday\r\n")
    write(tmp_path, "pos/a.txt", "")
    write(tmp_path, "neg/1", "bad")
    write(tmp_path, "neg/.hidden", b"\xff")
    write(tmp_path, "neg/deeper/2", "not read")
    write(tmp_path, ".git/config", "not read")
    write(tmp_path, "README", "not read")
    data = read_dataset(tmp_path)
    assert data.texts == ["bad", "", "good\nday"]
    assert data.labels == ["neg", "pos", "pos"]
    assert data.lines == [1, 2, 3]
    assert data.where(2) == str(tmp_path / "pos" / "b.txt")


def test_unlabelled_rows(tmp_path):
    table = write(tmp_path, "a.csv", 'text\nhello\n""\n \n')
    assert read_dataset(table, labelled=False).texts == ["hello", "", " "]
    table = write(tmp_path, "b.csv", "text,label\nhello,\nyou,x\n")
    assert read_dataset(table, labelled=False).labels == ["", "x"]
    objects = write(tmp_path, "c.jsonl", '{"text": "a"}\n{"text": "b", "label": null}\n')
    assert read_dataset(objects, labelled=False).labels == ["", ""]
    plain = write(tmp_path, "d.txt", "one\n\n__label__x two __label__y\n")
    data = read_dataset(plain, labelled=False)
    assert data.texts == ["one", "", "two __label__y"]
    assert data.labels == ["", "", "x"]


def test_what_exists_wins_over_a_builtin_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "names/x/1", "one")
    assert read_dataset("names").texts == ["one"]


@pytest.mark.parametrize("name", ["big.csv", "big.jsonl", "big.txt"])
def test_a_line_of_megabytes_is_quick(tmp_path, name):
    text = "word " * 600_000
    line = {
        "big.csv": f"text,label\n{text},x\n",
        "big.jsonl": json.dumps({"text": text, "label": "x"}),
        "big.txt": f"__label__x {text}",
    }[name]
    path = write(tmp_path, name, line)
    csv.field_size_limit(131_072)  # the module's own limit
    start = time.perf_counter()
    assert read_dataset(path).texts == [text]
    assert time.perf_counter() - start < 2


def test_rows_come_one_at_a_time(tmp_path):
    path = write(tmp_path, "d.csv", "text,label\nfine,x\nbroken\n")
    stream = rows(path)
    assert next(stream).text == "fine"
    with pytest.raises(InputError, match="line 3"):
        next(stream)


anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
a_label = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8)


@FEW
@given(st.lists(st.tuples(anything, a_label), min_size=1, max_size=6), st.sampled_from(",\t"))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, pairs, delimiter):
    path = tmp_path_factory.mktemp("tables") / ("t.csv" if delimiter == "," else "t.tsv")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("text", "label"), *pairs])
    data = read_dataset(path)
    assert list(zip(data.texts, data.labels, strict=True)) == pairs


@FEW
@given(st.lists(st.tuples(anything, a_label), min_size=1, max_size=6), st.booleans())
def test_what_the_json_module_writes_is_read_back(tmp_path_factory, pairs, escape):
    path = tmp_path_factory.mktemp("objects") / "o.jsonl"
    objects = [{"text": text, "label": label} for text, label in pairs]
    lines = [json.dumps(o, ensure_ascii=escape) + "\n" for o in objects]
    path.write_bytes("".join(lines).encode())
    data = read_dataset(path)
    assert list(zip(data.texts, data.labels, strict=True)) == pairs
    assert data.lines == list(range(1, len(pairs) + 1))


@FEW
@given(st.binary(max_size=60), st.sampled_from(["csv", "tsv", "jsonl", "txt", "bin"]))
def test_any_bytes_give_rows_or_one_line(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"any.{suffix}"
    path.write_bytes(content)
    message = f"{path}: fine"
    try:
        read_dataset(path, labelled=False)
    except InputError as error:
        message = str(error)
    assert message.isprintable()
    assert message.startswith(str(path))


# --- bad files -------------------------------------------------------------------------------

HEADER = "text,label\n"
BAD_FILES = [
    # name, content, what the message must hold after the file's name
    ("d.csv", "", [": the file is empty; give a .csv"]),
    ("d.jsonl", "", [": the file is empty; give a .csv"]),
    ("d.txt", "", [": the file is empty; give a .csv"]),
    ("d.csv", HEADER, [": the file has no rows; add at least one text"]),
    ("d.jsonl", "\n \n", [": the file has no rows; add at least one text"]),
    ("d.txt", "\n\n", [": the file has no rows; add at least one text"]),
    (
        "d.csv",
        "Text,Sentiment\na,b\n",
        [", line 1: no column 'text'; there is 'Text', 'Sentiment': perhaps --text-column Text"],
    ),
    (
        "d.csv",
        "text,my labels\na,b\n",
        [", line 1: no column 'label'", "perhaps --label-column 'my labels'"],
    ),
    ("d.csv", "text,zzz\na,b\n", [", line 1: no column 'label'", "pass --label-column with one"]),
    ("d.csv", "text,label,text\na,b,c\n", [", line 1: 2 columns are called 'text'; rename"]),
    ("d.csv", "text;label\na;b\n", [", line 1:", "separated by ';'", "save it separated by"]),
    ("d.csv", "text\tlabel\na\tb\n", [", line 1:", "separated by '\\t'", "name the file .tsv"]),
    ("d.tsv", "text,label\na,b\n", [", line 1:", "separated by ','", "name the file .csv"]),
    (
        "d.csv",
        HEADER + '"two\nlines",x\n\none, two,x\n',
        [', line 5: 3 fields, but the header has 2; put "quotes" around'],
    ),
    ("d.csv", HEADER + "alone\n", [", line 2: 1 field, but the header has 2; put"]),
    ("d.csv", HEADER + "a,x\nb,\n", [", line 3: no label in column 'label'; fill it in or remove"]),
    ("d.csv", HEADER + 'b,"x\ny"\n', [", line 2: the label 'x\\ny'", "holds '\\n'", "rename it"]),
    (
        "d.csv",
        HEADER + 'a,x\n"open,x\nb,x\n',
        [", line 3: a quoted field", "(read up to line 4); close it with one"],
    ),
    ("d.csv", HEADER + '"a "b" c",x\n', [", line 2: a quoted field", 'write every " inside it']),
    ("d.csv", HEADER + "a,x\nb\0c,x\n", [", line 3: a NUL byte (byte 2 of the line)", "save the"]),
    ("d.txt", "__label__x \0\n", [", line 1: a NUL byte (byte 12 of the line)", "remove the byte"]),
    (
        "d.csv",
        HEADER.encode() + b"ok,x\ncaf\xe9,x\n",
        [", line 3: not valid UTF-8 (byte 4 of the line, 0xe9)", "iconv -f WINDOWS-1252 -t UTF-8"],
    ),
    ("d.jsonl", b'{"text": "\xe2\x28"}', [", line 1: not valid UTF-8 (byte 11", "0xe2", "iconv"]),
    ("d.csv", "text,label\n".encode("utf-16"), [", line 1: the file is UTF-16", "-f UTF-16 -t"]),
    ("d.txt", "__label__".encode("utf-16"), [", line 1: the file is UTF-16", "iconv"]),
    ("d.jsonl", "{}".encode("utf-32"), [", line 1: the file is UTF-32", "iconv -f UTF-32"]),
    (
        "d.jsonl",
        '{"text": "a", "label": "b"}\n{"text": "a" "label"}\n',
        [", line 2: broken JSON at column 14 (", "write one JSON object a line"],
    ),
    ("d.jsonl", '["a", "b"]\n', [", line 1: a list, not an object; write one JSON object a line"]),
    ("d.jsonl", "[" * 100_000, [", line 1: ", "JSON", "write one JSON object a line"]),
    ("d.jsonl", '{"text": ' + "1" * 5000 + "}", [", line 1: ", "write one JSON object|make it a"]),
    (
        "d.jsonl",
        '{"Text": "a", "label": "b"}',
        [", line 1: no key 'text'; there is 'Text', 'label': perhaps --text-column Text"],
    ),
    ("d.jsonl", "{}", [", line 1: no key 'text'; there is none at all: pass --text-column"]),
    ("d.jsonl", '{"text": "a"}', [", line 1: no key 'label'; there is 'text': pass --label"]),
    (
        "d.jsonl",
        '{"text": 3, "label": "b"}',
        [", line 1: the text under 'text' is a number; make it a string"],
    ),
    ("d.jsonl", '{"text": "a", "label": null}', [", line 1: the label under 'label' is null; "]),
    ("d.jsonl", '{"text": "a", "label": 1.5}', [", line 1: the label", "is a number; make it a"]),
    ("d.jsonl", '{"text": "a", "label": ["x"]}', [", line 1: the label", "is a list; make it a"]),
    ("d.jsonl", '{"text": "a", "label": " "}', [", line 1: no label under 'label'; fill it in"]),
    ("d.jsonl", '{"text": "a", "label": "\\ud800"}', [", line 1: the label '\\ud800'", "rename"]),
    ("d.txt", "__label__x a\nb\n", [", line 2: no label; start the line with __label__x"]),
    ("d.txt", "__label__ a\n", [", line 1: no label after __label__; fill it in"]),
    ("d.txt", "__label__x __label__y a\n", [", line 1: several __label__ on one line; keep one"]),
    ("d.txt", "__label__x a __label__y\n", [", line 1: several __label__ on one line; keep one"]),
    ("d.xlsx", b"PK\x03\x04\0\0", [": no format goes with the suffix '.xlsx'; give a .csv"]),
    ("folder/README", "hello", [": a folder without sub-folders; make one sub-folder a class"]),
    ("folder/.git/config", "hello", [": a folder without sub-folders; make one sub-folder a"]),
    ("folder/pos/sub/a.txt", "hello", ["/pos: no text in this class; put its texts there"]),
    ("folder/pos/a.txt", b"good\nca\xe9", ["/pos/a.txt, line 2: not valid UTF-8 (byte 3", "iconv"]),
    ("folder/a\nb/a.txt", "hello", ["/a\\nb: the label 'a\\nb' (the folder's name)", "rename it"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), BAD_FILES)
def test_bad_file_is_one_line_with_file_line_and_remedy(tmp_path, name, content, parts):
    write(tmp_path, name, content)
    source = str(tmp_path / name.split("/")[0])
    message = message_of(lambda: read_dataset(source))
    assert message.startswith(source + parts[0].split("|")[0])
    for part in parts[1:]:
        assert any(one in message for one in part.split("|")), message


def test_missing_file_lists_formats_and_builtin_sets(tmp_path):
    for source in (str(tmp_path / "no.csv"), "no-such-set", "a\0b", ""):
        message = message_of(lambda source=source: read_dataset(source))
        assert message.startswith(f"{one_line(source)}: no such file, folder or built-in set; give")
        assert ".csv, .tsv, .jsonl or fastText" in message
        assert message.endswith("a built-in set: names or tweets")


def test_a_file_in_place_of_a_folder_is_missing(tmp_path):
    path = write(tmp_path, "d.csv", HEADER)
    assert "no such file" in message_of(lambda: read_dataset(path + "/more.csv"))


def test_too_long_a_name_is_reported():
    assert "cannot be read (" in message_of(lambda: read_dataset("x" * 400))


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no device files on this system")
def test_device_is_refused():
    message = message_of(lambda: read_dataset("/dev/zero"))
    assert message == "/dev/zero: not a regular file; copy what it gives to a file first"


@pytest.mark.parametrize("name", ["d.csv", "d.unknown"])
def test_permission_denied(tmp_path, monkeypatch, name):
    path = write(tmp_path, name, HEADER)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(readers, "open", refuse, raising=False)
    message = message_of(lambda: read_dataset(path))
    assert message.startswith(f"{path}: cannot be read (permission denied); make it readable: ")


def test_broken_link_in_a_class_is_reported(tmp_path):
    write(tmp_path, "pos/a.txt", "fine")
    (tmp_path / "pos" / "b.txt").symlink_to(tmp_path / "nowhere")
    message = message_of(lambda: read_dataset(tmp_path))
    assert message.startswith(f"{tmp_path}/pos/b.txt: cannot be read (no such file")


# --- errors ----------------------------------------------------------------------------------


@FEW
@given(st.text())
def test_messages_are_one_printable_line(text):
    assert str(InputError(text, source=text, line=1)).isprintable()
    assert one_line(one_line(text)) == one_line(text)
    assert quoted(text).isprintable()


def test_input_error_survives_pickling():
    error = InputError("wrong; repair it", source="d\n.csv", line=2)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "d\\n.csv, line 2: wrong; repair it"


def test_quoted_keeps_both_ends():
    assert quoted("a" * 50 + "b" * 50) == repr("a" * 19 + "…" + "b" * 20)
    assert quoted("a" * 40) == repr("a" * 40)
