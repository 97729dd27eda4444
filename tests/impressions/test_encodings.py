"""CSV in the encodings of the world: read as it is said, or told by file, line and byte."""

from __future__ import annotations

import codecs
import gzip

import pytest

from ecdctr.errors import ConfigError, ContractError
from ecdctr.impressions import encodings
from ecdctr.impressions.mapping import Mapping
from tests.impressions.imported import BASE, column, rows, run

WORDS = {  # an encoding and users that it can write
    "utf-16": ("😀", "𝔘ser", "é"),
    "utf-16-le": ("😀", "b", "中文"),
    "utf-16-be": ("😀", "b", "中文"),
    "utf-32": ("😀", "b", "é"),
    "cp1252": ("5 €", "“quoted”", "naïve"),
    "latin-1": ("naïve", "\x85", "ÿ"),
    "cp1251": ("привет", "b", "ё"),
    "shift_jis": ("日本", "ソ", "表"),  # whose second byte is a backslash
    "gb18030": ("中文", "😀", "b"),
    "utf-8-sig": ("😀", "é", "b"),
}


@pytest.mark.parametrize("encoding", WORDS)
@pytest.mark.parametrize("block", [3, encodings.BLOCK])
def test_every_letter_of_an_encoding_is_kept(tmp_path, monkeypatch, encoding, block):
    monkeypatch.setattr(encodings, "BLOCK", block)
    users = WORDS[encoding]
    text = rows(users).encode(encoding)
    if block > 3:
        text = gzip.compress(text)
    name = "a.csv.gz" if block > 3 else "a.csv"
    done = run(tmp_path, {name: text}, {"files": [name], "encoding": encoding})
    assert (done.read, done.natural, done.ads, done.left_out) == (40, 20, 20, 0)
    assert set(column(tmp_path, "user_id")) == set(users)


@pytest.mark.parametrize(("content", "said", "words"), [
    (rows(["5 €"]).encode("cp1252"), "utf-8",
     r"line 2: the byte 0x80 is no UTF-8 here\. In cp1252 .* it reads "
                                             r"'5 €,100,.*say encoding: cp1252"),
    (rows(["ü"]).encode("latin-1"), "utf-8", "line 2: the byte 0xfc is no UTF-8 here. In cp1252"),
    (rows(["日本"]).encode("shift_jis"), "utf-8", "line 2: the byte 0x93 is no UTF-8 here"),
    (rows(["\x81"]).encode("latin-1"), "utf-8", "line 2: the byte 0x81 .* Say which encoding"),
    (rows(["ü"] * 9).encode() + b"\xfc,1,1,1,ads\n", "utf-8",
     "line 42: the byte 0xfc .*, and other lines are; mend"),
    (rows(["\x81"]).encode("latin-1"), "cp1252",
     "line 2: the byte 0x81 is no CP1252 here; say another"),
    (rows().encode("utf-16") + b"\x00\xd8,\0", "utf-16",
     "line 42: the byte 0x00 is no UTF-16 here"),
    (rows().encode("utf-16")[:-1], "utf-16", "line 41: the byte .* is no UTF-16 here"),
    (rows().encode("utf-16-be"), "utf-16",
     r"is UTF-16; say so in the mapping \(encoding: utf-16-be\)"),
    (codecs.BOM_UTF16_BE + rows().encode("utf-16-be"), "utf-16-le",
     r"is UTF-16; .*\(encoding: utf-16\)"),
    (rows(["é"]).encode("utf-8-sig"), "cp1252",
     "begins with the mark of UTF-8; leave encoding: cp1252 out"),
    (rows(["é"]).encode(), "latin-1", "is UTF-8, as all in it .* leave encoding: iso8859-1 out"),
    *((rows(["привет"]).encode(), other, f"is UTF-8, as all in it .* leave encoding: {other} out")
      for other in ("cp1251", "cp1250", "cp437", "mac-roman", "gb18030")),
    (rows().encode("utf-16-le"), "utf-16",
     r"is UTF-16; say so in the mapping \(encoding: utf-16-le\)"),
    (rows().encode("utf-32-le"), "utf-32",
     r"is UTF-32; say so in the mapping \(encoding: utf-32-le\)"),
    (rows(["日本語用户名字称" * 30]).encode("utf-16-le"), "utf-16",
     "does not begin with the mark of UTF-16; say "
                                                            "encoding: utf-16-le or utf-16-be"),
    (rows().encode(), "utf-16-be", "is ASCII, not UTF-16-BE; leave encoding: utf-16-be out"),
    (rows().encode(), "cp037", "is ASCII, not CP037; leave encoding: cp037 out"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "utf-8",
     "is a pointer of Git LFS; load the file"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "utf-8", "is no text; it holds zeros and bytes"),
    (b"user\0id,b\n1,2\n", "utf-8", "line 1: a column's name holds the character 0"),
    (b"SQLite format 3\0\x10\0,\n", "utf-8", "is a database of SQLite"),
    (b"<!DOCTYPE html>\n<p>404\n", "utf-8", "is an HTML page"),
])  # fmt: skip
def test_what_is_of_another_encoding_is_told_with_its_line_and_what_to_do(
    tmp_path, content, said, words
):
    with pytest.raises(ContractError, match=rf"a\.csv,? {words}"):
        run(tmp_path, {"a.csv": content}, {"files": ["a.csv"], "encoding": said})
    assert not list((tmp_path / "data").iterdir())


def test_lines_are_counted_over_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK", 7)
    for end in ("\n", "\r\n", "\r"):
        path = tmp_path / "a.csv"
        path.write_bytes(rows().replace("\n", end).encode() + b"1,\xff")
        bad = encodings.first_bad(path, "utf-8")
        assert bad
        assert (bad.line, bad.byte) == (42, 0xFF)


@pytest.mark.parametrize("name", ["", "utf-99", "unicode_escape", "hex", "rot13", "idna", "a\0b"])
def test_an_encoding_that_is_none_is_refused_at_load(name):
    with pytest.raises(ValueError, match="expected an encoding of text, such as utf-8"):
        Mapping(log={"files": ["a.csv"], "encoding": name}, **BASE)


def test_a_header_of_another_encoding_is_shown_by_its_start(tmp_path):
    text = rows().replace("kind", "\x85kind" * 99, 1)
    with pytest.raises(ConfigError, match="The log's columns") as refused:
        run(tmp_path, {"a.csv": text})
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("zeros", [4, 512])
def test_an_archive_that_is_padded_with_zeros_is_read(tmp_path, zeros):
    """As tapes and disks leave them; gunzip reads it, too."""
    packed = gzip.compress(rows().encode()) + bytes(zeros)
    assert run(tmp_path, {"a.csv.gz": packed}, {"files": ["a.csv.gz"]}).read == 40
    with pytest.raises(ContractError, match="cut or damaged"):
        run(tmp_path / "cut", {"a.csv.gz": packed[:60] + bytes(zeros)}, {"files": ["a.csv.gz"]})
