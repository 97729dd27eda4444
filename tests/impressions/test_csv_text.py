"""CSV as the world writes it: read as it is written, or refused by file and line."""

from __future__ import annotations

import bz2
import gzip
import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecdctr.errors import ConfigError, ContractError
from ecdctr.impressions import csv_text
from ecdctr.impressions.csv_count import count_records, read_records
from ecdctr.impressions.importer import import_log
from ecdctr.impressions.mapping import Mapping
from tests.impressions.imported import BASE, START, column, rows, run

NOTED = rows().replace("ads\n", '"a\nb ""c"" , d"\n').replace("natural\n", '"e\nf"\n')
BROKEN = {  # content, words of the sentence, changes of the log's description
    "a longer row": (
        rows() + "1,2,3,4,5,6\n",
        "a.csv, line 42: Expected Number of Columns: 5 Found: 6",
        {},
    ),
    "a row cut short": (
        rows() + "9,100\n",
        "a.csv, line 42: Expected Number of Columns: 5 Found: 2",
        {},
    ),
    "an open quote": (
        rows() + '"9,1,1,1,ads\n' + rows(),
        "a.csv, line 42: .*unterminated quote",
        {},
    ),
    "text after a quote": (rows() + '"9"9,1,1,1,ads\n', "a.csv, line 42: .*quote", {}),
    "Latin-1": (
        rows().replace("natural", "nat\u00fcrlich", 1).encode("latin-1"),
        "a.csv, line 2: the byte 0xfc is no UTF-8",
        {},
    ),
    "UTF-16": (rows().encode("utf-16"), "a.csv is UTF-16; say so", {}),
    "a blank before quotes": (
        rows() + ' "9",1,1,1,ads\n',
        "a.csv, line 42: a blank stands beside the quotes",
        {},
    ),
    "a blank behind quotes": (rows() + '"9" ,1,1,1,ads\n', "a.csv, line 42: ", {}),
    "a blank at the end of a line": (rows() + '9,1,1,1,"ads"  \n', "a.csv, line 42: ", {}),
    "mixed ends of lines": (
        rows().replace("\n", "\r\n", 10),
        r"a.csv, line 11: it ends unlike the lines before",
        {},
    ),
    "mixed ends, quoted ones aside": (
        rows().replace("natural", '"a\r\nb"') + "1,2,3,0,ads\r\n",
        "a.csv, line 62: it ends",
        {},
    ),
    "mixed ends behind quotes": (
        NOTED.replace("\n", "\r\n") + NOTED.split("\n", 1)[1],
        "a.csv, line 83: it ends unlike the lines before",
        {},
    ),
    "an open quote in the header": (
        rows().replace("user", '"user', 1),
        "a.csv, line 1: unexpected end of data; a quote",
        {},
    ),
    "columns alike": (
        rows().replace("kind", "User", 1),
        "a.csv, line 1, read as the header: columns user and User",
        {},
    ),
    "wider than its names": (
        rows().split("\n", 1)[1],
        "a.csv, line 1: Expected Number of Columns: 6 Found: 5",
        {
            "header": False,
            "names": ["user", "item", "t", "clicked", "kind", "extra"],
            "delimiter": ",",
        },
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_named_with_its_line(tmp_path, what):
    content, words, log = BROKEN[what]
    with pytest.raises(ContractError, match=words):
        run(tmp_path, {"a.csv": content}, log)
    assert not list((tmp_path / "data").iterdir())


PACKED = gzip.compress(rows().encode(), mtime=0)
AGAIN = "load it from its source again, or write it anew"
ARCHIVES = {
    "gzip cut short": ("a.csv.gz", PACKED[:-20], AGAIN),
    "gzip damaged": ("a.csv.gz", PACKED[:60] + b"xxxx" + PACKED[64:], AGAIN),
    "gzip with a wrong sum": ("a.csv.gz", PACKED[:-8] + bytes(4) + PACKED[-4:], AGAIN),
    "more behind gzip": ("a.csv.gz", PACKED + b"more", AGAIN),
    "zstd cut short": ("a.csv.zst", pa.compress(rows().encode(), "zstd", asbytes=True)[:-9], AGAIN),
    "text named .gz": ("a.csv.gz", rows().encode(), "if it is CSV take .gz away"),
    "text named .zst": ("a.csv.zst", rows().encode(), "if it is CSV take .zst away"),
    "gzip named .zst": (
        "a.csv.zst",
        PACKED,
        "it is a gzip archive and no zstd archive; let its name end with",
    ),
    "a broken Parquet file": ("a.parquet", b"PAR1 no\0", AGAIN),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_a_broken_archive_is_named(tmp_path, what):
    name, content, words = ARCHIVES[what]
    with pytest.raises(ContractError, match=rf"{name} cannot be read.*; .*{words}"):
        run(tmp_path, {name: content}, {"files": [name]})
    assert not list((tmp_path / "data").iterdir())


DIALECTS = {
    "byte order mark": (b"\xef\xbb\xbf" + rows().encode(), {}),
    "CRLF": (rows().replace("\n", "\r\n"), {}),
    "CR": (rows().replace("\n", "\r"), {}),
    "no last end of line": (rows().rstrip("\n"), {}),
    "comments before the header": ("# made by a tool\n# 2026\n" + rows(), {}),
    "semicolons": (rows().replace(",", ";"), {}),
    "tabs": (rows().replace(",", "\t"), {}),
    "two colons": (rows().replace(",", "::"), {"delimiter": "::"}),
    "quoted": (re.sub(r"[^,\n]+", r'"\g<0>"', rows()), {}),
    "spaces in the header": (rows().replace("user,item", "user, item ", 1), {}),
    "Latin-1, told": (rows().encode("latin-1"), {"encoding": "latin-1"}),
    "UTF-16, told": (rows().encode("utf-16"), {"encoding": "utf-16"}),
    "names": (rows().split("\n", 1)[1], {"names": ["user", "item", "t", "clicked", "kind"]}),
    "gzip of two members": (
        (gzip.compress(rows()[:300].encode()) + gzip.compress(rows()[300:].encode())),
        {"files": ["a.csv.gz"]},
    ),
}


@pytest.mark.parametrize("what", DIALECTS)
def test_a_dialect_is_read_as_it_is_written(tmp_path, what):
    content, log = DIALECTS[what]
    name = log.get("files", ["a.csv"])[0]
    done = run(tmp_path, {name: content}, log)
    assert (done.read, done.natural, done.ads, done.left_out, done.duplicates) == (40, 20, 20, 0, 0)
    assert set(column(tmp_path, "user_id")) == {1, 2, 3}
    assert sum(column(tmp_path, "click")) == 14


def test_quotes_and_line_breaks_inside_of_values_are_kept(tmp_path):
    titles = [f'one\nline "two", {i}\r\n; #' for i in range(40)]
    lines = rows().splitlines()
    quoted = ['"' + title.replace('"', '""') + '"' for title in titles]
    text = "\n".join(
        [lines[0] + ",title", *(f"{a},{b}" for a, b in zip(lines[1:], quoted, strict=True))]
    )
    run(tmp_path, {"a.csv": text + "\n"}, features={"title": "title"})
    assert set(column(tmp_path, "title")) == set(titles)


def test_other_compressions_are_read(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.csv\.bz2: .*\.gz or \.zst"):
        run(tmp_path, {"a.csv.bz2": bz2.compress(rows().encode())}, {"files": ["a.csv.bz2"]})
    packed = pa.CompressedOutputStream(str(tmp_path / "logs" / "a.csv.zst"), "zstd")
    packed.write(rows().encode())
    packed.close()
    assert run(tmp_path, {}, {"files": ["a.csv.zst"]}).read == 40


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_or_damaged_archive_of_any_size_is_named(tmp_path, suffix):
    text = rows(tuple(str(i) for i in range(5000)), n=60_000, start=START).encode()
    whole = gzip.compress(text, 1) if suffix == ".gz" else pa.compress(text, "zstd", asbytes=True)
    name = f"a.csv{suffix}"
    for content in (
        whole[: len(whole) * 8 // 10],
        whole[:-6] + b"\0" * 6 if suffix == ".gz" else whole[:-9],
    ):
        with pytest.raises((ConfigError, ContractError), match=r"a\.csv"):
            run(tmp_path, {name: content}, log={"files": [name]})
        assert not list((tmp_path / "data").rglob("*.parquet"))


def test_a_comment_ends_where_the_csv_says_so(tmp_path):
    text = "# a\u2028# b\x0c# c\n" + rows()
    assert run(tmp_path, {"a.csv": text}).read == 40


def test_a_file_that_a_pattern_finds_through_links_too_is_read_once(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "loop").symlink_to(tmp_path / "logs")
    done = run(tmp_path, {"a.csv": rows()}, {"files": ["**/*.csv"]})
    assert (done.read, done.duplicates) == (40, 0)


def test_names_of_files_are_names_before_they_are_patterns(tmp_path):
    folder = tmp_path / "lo[g]s *?#%20"
    folder.mkdir()
    (tmp_path / "logs").mkdir()
    (folder / "a[1].csv").write_text(rows())
    (folder / "a1.csv").write_text("not,this\n")
    mapping = Mapping(log={"files": ["a[1].csv"]}, **BASE)
    assert import_log(mapping, folder, tmp_path / "d[0]").read == 40
    below = tmp_path / "x.parquet"
    below.mkdir()
    (below / "a.csv").write_text(rows())
    assert (
        import_log(Mapping(log={"files": ["*.csv"]}, **BASE), below, tmp_path / "data").read == 40
    )
    with pytest.raises(ConfigError, match=r"x\.parquet is a folder, expected a file"):
        import_log(Mapping(log={"files": ["*.parquet"]}, **BASE), tmp_path, tmp_path / "more")


def test_without_a_header_every_line_is_a_row(tmp_path):
    """Also one that starts like a comment."""
    names = {"names": ["user", "item", "t", "clicked", "kind"]}
    text = rows(["#1", "2", "3"]).split("\n", 1)[1]
    assert run(tmp_path, {"a.csv": text}, names).read == 40
    assert set(column(tmp_path, "user_id")) == {"#1", "2", "3"}
    with pytest.raises(
        ContractError, match=r"a\.csv, line 1: a comment \(#\) stands among the rows"
    ):
        run(tmp_path / "more", {"a.csv": "# made by a tool\n" + text}, names | {"delimiter": ","})


@pytest.mark.parametrize(
    ("before", "delimiter"),
    [
        ("\n", ","),
        ("  \n\t\n", ","),
        ("sep=;\n", ";"),
        ("SEP=,\r\n", ","),
        ("\nsep=\t\n# by a tool\n\n", "\t"),
        ("# a\n\n# b\n", "|"),
    ],
)
def test_blank_lines_comments_and_a_spreadsheets_separator_stand_before_a_header(
    tmp_path, before, delimiter
):
    text = rows().replace(",", delimiter)
    text = before + (text.replace("\n", "\r\n") if "\r" in before else text)
    assert run(tmp_path, {"a.csv": text}).read == 40


HEAD, BODY = rows().split("\n", 1)
NAMED = {"names": ["user", "item", "t", "clicked", "kind"]}
BEHIND = {  # a header that stands behind #, and changes of the log's description
    "at once": (f"#{HEAD}\n{BODY}", {}),
    "after comments": (f"# made by a tool\r\n# a, b\r\n# {HEAD}\n".replace("\r", "") + BODY, {}),
    "before a blank line": (f"##{HEAD}\n\n{BODY}", {}),
    "before other comments": (f"# one, two, three\n#{HEAD}\n# rows: 40\n#\n{BODY}", {}),
    "in quotes": (f'#"user","item",t,clicked,kind\n{BODY}', {}),
    "after a mark": ("\ufeff#" + HEAD + "\n" + BODY, {}),
    "said to be there": (f"#{HEAD}\n{BODY}", {"header": True}),
    "tabs": (f"#{HEAD}\n{BODY}".replace(",", "\t"), {}),
    "two colons": (f"#{HEAD}\n{BODY}".replace(",", "::"), {"delimiter": "::"}),
    "of the W3C": (f"#Version: 1.0\n#Fields: {HEAD.replace(',', ' ')}\n{BODY}".replace(",", "\t"),
                   {}),
    "names and a header": (f"#{HEAD}\n{BODY}", NAMED | {"header": True}),
}  # fmt: skip


@pytest.mark.parametrize("what", BEHIND)
def test_a_header_may_stand_behind_a_mark_of_comments(tmp_path, what):
    text, log = BEHIND[what]
    assert run(tmp_path, {"a.csv": text}, log).read == 40
    assert set(column(tmp_path, "user_id")) == {1, 2, 3}


def test_a_comment_of_as_many_words_as_the_header_is_no_header(tmp_path):
    text = "# one, two, three, four, five\n" + rows()
    with pytest.raises(ContractError, match=r"a\.csv, line 1: it begins with # .*either may be"):
        run(tmp_path, {"a.csv": text})
    assert run(tmp_path, {"a.csv": text}, {"header": True}).read == 40
    for i, comment in enumerate(("a, b", "1, 2, 3, 4, 5", "a, a, b, c, d", "a,,b,c,d", "a")):
        assert run(tmp_path / str(i), {"a.csv": f"# {comment}\n{rows()}"}).read == 40
    text = f"#{HEAD}\n" + "".join(f"u{i},i,t,c,ads\n" for i in range(9))
    with pytest.raises(ContractError, match=r"a\.csv, line 1: it begins with #"):
        run(tmp_path / "text", {"a.csv": text})


def test_a_header_behind_a_mark_that_stands_again_is_told(tmp_path):
    with pytest.raises(ContractError, match="its header stands again in 1 rows"):
        run(tmp_path, {"a.csv": f"#{HEAD}\n{BODY}#{HEAD}\n{BODY}"})


@pytest.mark.parametrize(
    "before", ["# a\r\n", "sep=,\r\n", "\r\n", "# a\r# b\n", "\n\r\n", "# a\n# b\r"]
)
def test_lines_before_a_header_that_end_otherwise_lose_no_row_in_silence(tmp_path, before):
    with pytest.raises(ContractError, match=r"a\.csv, line 2: it ends unlike the lines before"):
        run(tmp_path, {"a.csv": before + rows()})


COUNTED = {  # what a file holds, whether quotes are quotes, its records
    "plain": (b"a,b\n1,2\n3,4\n", True, 3),
    "no last end": (b"a,b\r\n1,2\r\n3,4", True, 3),
    "blank lines": (b"\n\na,b\n\n\n1,2\n\n", True, 2),
    "CR": (b"a,b\r1,2\r\r3,4\r", True, 3),
    "ends in quotes": (b'a,b\r\n"1\r\n\r\n",""\r\n\r\n"""","x ""\n"" y"\r\n', True, 3),
    "quotes are letters": (b'a,b\n"1,2\n3,4\n', False, 3),
    "empty cells in quotes": (b'""\n""\n\n""', True, 3),
    "nothing": (b"", True, 0),
}
BEFORE = b"# it's 5\"\r\n\r\n# more\r\n"


@pytest.mark.parametrize("what", COUNTED)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_records_are_counted_wherever_a_block_ends(what, size):
    content, quotes, records = COUNTED[what]
    for before, skip in ((b"", 0), (BEFORE, 3)):
        whole = before + content
        blocks = [whole[i : i + size] for i in range(0, len(whole), size)]
        assert count_records(blocks, skip, quotes) == records
        assert read_records(io.BytesIO(whole), skip, quotes, ",") == records


@pytest.mark.parametrize("after", [10, 60_000])
def test_rows_that_the_reader_does_not_give_are_missed_wherever_they_stand(
    tmp_path, monkeypatch, after
):
    """DuckDB once went to the end of a file without a word; here it stops in the middle."""
    text = rows(n=60_001) if after > 10 else rows()
    read_csv = csv_text.read_csv
    monkeypatch.setattr(csv_text, "read_csv", lambda *given: f"{read_csv(*given)} LIMIT {after}")
    with pytest.raises(ContractError, match=rf"a\.csv: {after:,} rows were read, but"):
        run(tmp_path, {"a.csv": text})
    assert not list((tmp_path / "data").iterdir())


def test_quotes_inside_of_cells_are_counted_as_letters(tmp_path):
    """The quick count takes them for quotes; the second one does not."""
    text = rows(['5" pipe', "2", "3"], n=40)
    assert run(tmp_path, {"a.csv": text + '5" end,1,1767225600,0,ads\n'}).read == 41


@pytest.mark.parametrize(
    ("said", "delimiter"),
    [(r"\x01", "\x01"), (r"\t", "\t"), (None, "\x01"), ("§", "§"), ("||", "||")],
)
def test_a_delimiter_can_be_a_control_character(tmp_path, said, delimiter):
    """Hive's default, which no YAML can hold as it is."""
    log = {"delimiter": said} if said else {}
    assert run(tmp_path, {"a.csv": rows().replace(",", delimiter)}, log).read == 40


@pytest.mark.parametrize("delimiter", ["", '"', "\n", "abcde", r"\x00"])
def test_a_delimiter_that_cannot_be_is_refused_at_load(tmp_path, delimiter):
    with pytest.raises(ValueError, match="expected one to four bytes"):
        Mapping(log={"files": ["a.csv"], "delimiter": delimiter}, **BASE)


def test_archives_may_be_named_in_capitals(tmp_path):
    assert run(tmp_path, {"a.CSV.GZ": PACKED}, {"files": ["a.CSV.GZ"]}).read == 40
    content = pa.compress(rows().encode(), "zstd", asbytes=True)
    assert run(tmp_path / "z", {"a.csv.ZST": content}, {"files": ["a.csv.ZST"]}).read == 40


def test_cells_of_any_length_are_read(tmp_path):
    long = "x" * 300_000
    text = rows().replace("user,", f"{long},", 1)
    assert run(tmp_path, {"a.csv": text}, user_id=long).read == 40
    names = {"names": ["user", "item", "t", "clicked", "kind"]}
    text = rows([long, "b"]).split("\n", 1)[1]
    assert run(tmp_path / "data", {"a.csv": text}, names).read == 40
    assert {len(user) for user in column(tmp_path / "data", "user_id")} == {300_000, 1}


def test_text_of_parquet_that_is_no_utf8_is_named_with_its_column(tmp_path):
    n = 40
    table = pa.table(
        {
            "user": pa.array([b"\xff"] * n).view(pa.string()),
            "item": list(range(n)),
            "t": [START + i for i in range(n)],
            "clicked": [i % 2 for i in range(n)],
            "kind": ["ads"] * n,
        }
    )
    (tmp_path / "logs").mkdir()
    pq.write_table(table, tmp_path / "logs" / "a.parquet")
    with pytest.raises(
        ContractError, match=r"a\.parquet .*column user holds text that is no UTF-8"
    ):
        run(tmp_path, {}, {"files": ["a.parquet"]})


def test_blanks_inside_of_quotes_are_letters(tmp_path):
    users = ['" a"', 'a "b" c', '" ""x"" "', '"a, ""b"", c"', '", "', '"\n ""\n"']
    run(tmp_path, {"a.csv": rows(users)})
    assert set(column(tmp_path, "user_id")) == {
        " a", 'a "b" c', ' "x" ', 'a, "b", c', ", ", '\n "\n'
    }  # fmt: skip


@pytest.mark.parametrize("name", ["PARENT_ASIN", "PAR1", "ORCID", "BZh_id", "Obj\x01", "ARROW1"])
def test_a_header_may_begin_like_another_format(tmp_path, name):
    text = rows().replace("user", name, 1)
    assert run(tmp_path, {"a.csv": text}, user_id=f'"{name}"').read == 40


TITLE = 'the "best'


@pytest.mark.parametrize("title", ['"best', TITLE, 'a"', '""', '"a" and "b"'])
def test_quotes_are_letters_where_it_is_said(tmp_path, title):
    """As in most TSV: titles of films and news begin with a quote."""
    text = rows(["1", title, "3"]).replace(",", "\t")
    assert run(tmp_path, {"a.tsv": text}, {"files": ["a.tsv"], "quotes": False}).read == 40
    assert set(column(tmp_path, "user_id")) == {"1", title, "3"}


TOGETHER = {
    "with a byte order mark": (b"\xef\xbb\xbf" + rows().encode()) * 2,
    "with a header": rows().encode() * 2,
    "two members of an archive": gzip.compress(rows().encode()) * 2,
}


@pytest.mark.parametrize("what", TOGETHER)
def test_files_that_were_put_together_are_refused(tmp_path, what):
    name = "a.csv.gz" if what.startswith("two") else "a.csv"
    with pytest.raises(
        ContractError, match=rf"{name}: .* it seems to be several files put together"
    ) as refused:
        run(tmp_path, {name: TOGETHER[what]}, {"files": [name], "header": True})
    assert "header: true" not in str(refused.value)


def stream_of_arrow() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("user", pa.int64())])):
        pass
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PACKED, "is a gzip archive; let its name end with .gz"),
        (b"PK\x03\x04" + rows().encode(), "is a zip archive; unpack it, or save the sheet as CSV"),
        (b'{"user": 1}', "is JSON; convert it to Parquet"),
        (b'[\n  {"user": 1}\n]', "is JSON; convert it to Parquet"),
        (b"SQLite format 3\0" + bytes(99), "is a database of SQLite; convert it to Parquet"),
        (stream_of_arrow(), "is a stream of Arrow; convert it to Parquet"),
        (b"\xff\x06\0\0sNaPpY" + bytes(99), "is a snappy archive; unpack it"),
        (b"PARE" + bytes(99), "is encrypted Parquet; write it without encryption"),
        (b"PAR1\x15\x04" + rows().encode(), "is Parquet; let its name end with .parquet"),
        (pa.compress(rows().encode(), "zstd", asbytes=True), "is a zstd archive"),
        (bz2.compress(rows().encode()), "is a bzip2 archive"),
        (rows().encode("utf-32"), "is UTF-32; say so"),
        (rows().encode("utf-16-le"), "is UTF-16; say so"),
        (rows().encode("utf-16-be"), "is UTF-16; say so"),
    ],
)
def test_what_is_no_csv_in_a_file_named_so_is_told(tmp_path, content, words):
    with pytest.raises(ContractError, match=rf"a\.csv {words}"):
        run(tmp_path, {"a.csv": content})


@pytest.mark.parametrize("place", ["_delta_log", ".hoodie"])
def test_files_of_a_table_that_counts_some_as_removed_are_refused(tmp_path, place):
    (tmp_path / "logs" / place).mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"a\.csv belongs to a table of .*{place}"):
        run(tmp_path, {"a.csv": rows()})


@pytest.mark.parametrize("before", ["", "# of a machine\n"])
@pytest.mark.parametrize("at", [5, 41], ids=["in the midst", "at the end"])
def test_a_comment_among_the_rows_is_told_and_a_row_that_begins_like_one_is_a_row(
    tmp_path, before, at
):
    lines = rows().splitlines()
    text = before + "\n".join([*lines[:at], "# written again, after a pause", *lines[at:]]) + "\n"
    number = at + 1 + bool(before)
    with pytest.raises(
        ContractError, match=rf"a\.csv, line {number}: a comment \(#\) stands among"
    ):
        run(tmp_path / "a", {"a.csv": text})
    last = lines[-1].split(",", 1)[1]
    run(tmp_path / "b", {"a.csv": text.replace("# written again, after a pause", f"#7,{last}")})
    assert column(tmp_path / "b", "user_id").count("#7") == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("zeros", [1, 5000])
def test_a_hole_of_zeros_is_told_with_its_line_and_is_no_part_of_an_id(tmp_path, end, zeros):
    """A log that was cut while its writer went on has one."""
    lines = rows().splitlines()
    lines[7] = "\0" * zeros + lines[7]
    with pytest.raises(ContractError, match=r"a\.csv, line 8: a zero byte, which no text has"):
        run(tmp_path, {"a.csv": end.join(lines) + end})
    with pytest.raises(ContractError, match=r"a\.csv, line 42: a zero byte"):
        run(tmp_path, {"a.csv": rows() + "\0" * zeros})


def wide(head: str = "user,item,t,clicked,kind", columns: int = 3000) -> str:
    """Return a log of very many columns, of which a mapping names few."""
    first, *lines = rows().splitlines()
    more = ",".join(f"c{i}" for i in range(columns))
    cells = ",".join(str(i % 7) for i in range(columns))
    named = first.replace("user,item,t,clicked,kind", head)
    return "\n".join([f"{named},{more}", *(f"{line},{cells}" for line in lines)]) + "\n"


def test_of_very_many_columns_those_are_read_that_the_mapping_names(tmp_path):
    done = run(tmp_path, {"a.csv": wide()}, {"types": {"c7": "VARCHAR"}}, features={"c": "c2999"})
    assert (done.read, done.natural, done.ads) == (40, 20, 20)
    assert set(column(tmp_path, "c")) == {2999 % 7}


LINES = wide().splitlines()
WIDE = {
    "a row that is cut": (LINES[5][:-2], r"a.csv, line 6: Expected Number of Columns"),
    "the header again": (LINES[0], "its header stands again in 1 rows"),
    "a byte order mark": ("\ufeff" + LINES[5], "1 rows begin with a byte order mark"),
    "an id that is none": ("," + LINES[5].split(",", 1)[1], r"rows without .* first in line 6 "),
}


@pytest.mark.parametrize("what", WIDE)
def test_very_many_columns_are_read_as_strictly_as_few(tmp_path, what):
    line, words = WIDE[what]
    log = "\n".join([*LINES[:5], line, *LINES[6:]]) + "\n"
    with pytest.raises(ContractError, match=words):
        run(tmp_path, {"a.csv": log})


def noted(*notes: str) -> str:
    """Return the log with another column of text, whose cells are as they are written."""
    head, *lines = rows().splitlines()
    cells = (f"{line},{notes[i % len(notes)]}" for i, line in enumerate(lines))
    return "\n".join([f"{head},note", *cells]) + "\n"


LETTERS = {  # files whose quotes are letters, as MySQL, Hive and Postgres write them
    "the last column": noted('"a', "x", 'b"', "y"),
    "the first column": rows(users=['"a', "b", 'c"', "d"]),
    "a column between": rows().replace(",101,", ',"a,').replace(",103,", ',b",'),
}


@pytest.mark.parametrize("where", LETTERS)
def test_rows_between_two_quotes_that_are_letters_are_not_lost_in_a_cell(tmp_path, where):
    with pytest.raises(ContractError, match=r"a\.csv, line \d: .* rows, which would be lost"):
        run(tmp_path, {"a.csv": LETTERS[where]})
    assert run(tmp_path, {"a.csv": LETTERS[where]}, {"quotes": False}).read == 40


def test_a_cell_of_several_lines_is_read_and_so_is_one_of_rows_where_quotes_are_said(tmp_path):
    text = noted('"a\nb"', '"c, d\ne, f, g, h, i, j"', '"k, l, m, n, o\np"')
    assert run(tmp_path / "text", {"a.csv": text}).read == 40
    done = run(tmp_path, {"a.csv": LETTERS["the last column"]}, {"quotes": True})
    assert done.read < 40


@pytest.mark.parametrize("note", [r'"a\"b"', r"a\,b"])
def test_what_is_escaped_by_a_backslash_is_told(tmp_path, note):
    with pytest.raises(ContractError, match=r"a\.csv, line 2: .* behind a backslash"):
        run(tmp_path, {"a.csv": noted(note)})
