"""Files that are no whole Parquet: `validate` tells what they are, and none reaches a training."""

from __future__ import annotations

import datetime as dt
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from ecdctr.errors import ConfigError, ContractError, machine_trouble
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import distinct
from ecdctr.files.duck import parquet
from ecdctr.impressions import contract, csv_text, quality
from ecdctr.impressions.contract import connect, validate_day
from ecdctr.impressions.damage import first_damaged, refuse_damaged
from ecdctr.impressions.footers import read_footer
from ecdctr.impressions.importer import import_log
from ecdctr.impressions.mapping import Mapping
from ecdctr.impressions.reading import one_reading
from tests.impressions.imported import BASE, START, rows
from tests.impressions.logs import FIRST, config_of, day_table, write_day
from tests.make import changed


class Keys(pe.KmsClient):
    """Keys that lock nothing."""

    def __init__(self, _: object) -> None:
        pe.KmsClient.__init__(self)

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return key

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return key


def encrypted(path: Path, table: pa.Table, plaintext_footer: bool) -> None:
    how = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["user_id"]}, plaintext_footer=plaintext_footer
    )
    keys = pe.CryptoFactory(Keys).file_encryption_properties(pe.KmsConnectionConfig(), how)
    pq.write_table(table, path, encryption_properties=keys)


def damaged(column: str) -> Callable[[Path, pa.Table], None]:
    def write(path: Path, table: pa.Table) -> None:
        pq.write_table(table, path, compression="none", use_dictionary=False)
        row_group = pq.read_metadata(path).row_group(0)
        columns = [row_group.column(i) for i in range(row_group.num_columns)]
        page = next(c for c in columns if c.path_in_schema.split(".")[0] == column).data_page_offset
        content = bytearray(path.read_bytes())
        content[page : page + 8] = b"\xff" * 8
        path.write_bytes(content)

    return write


def misnamed(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"brand", b"bra\xeed"))


def instead(content: bytes) -> Callable[[Path, pa.Table], None]:
    return lambda path, _: path.write_bytes(content)


LYING = {
    "encrypted": (
        lambda path, table: encrypted(path, table, False),
        "found an encrypted file; write it plainly",
    ),
    "encrypted columns": (
        lambda path, table: encrypted(path, table, True),
        "found an encrypted file; write it plainly",
    ),
    "a pointer": (
        instead(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "found a pointer of Git LFS; load",
    ),
    "a page": (instead(b"<!DOCTYPE html>\n<p>404"), "found an HTML page"),
    "ORC": (
        instead(b"ORC" + bytes(99)),
        "found ORC; convert it to Parquet",
    ),
    "CSV": (
        instead(b"user_id,item_id\n1,2\n"),
        "found text; convert it to Parquet",
    ),
    "SQLite": (
        instead(b"SQLite format 3\0" + bytes(99)),
        "found a database of SQLite; convert it to Parquet",
    ),
    "a packed CSV": (instead(gzip.compress(b"user_id\n1\n")), "found a gzip archive; unpack it"),
    "cut": (instead(b"PAR1" + bytes(99)), "expected a whole Parquet file, found a damaged one"),
    "a name": (misnamed, "expected names of columns in UTF-8"),
    **{
        f"pages of {name}": (damaged(name), "expected a whole Parquet file, found a damaged one")
        for name in ("user_id", "category", "flag", "price", "tags", "words")
    },
}


def test_a_file_that_was_replaced_by_one_of_its_size_and_time_is_read_anew(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"one": [1]}), path)
    before = path.stat()
    assert read_footer(path).schema.names == ["one"]
    pq.write_table(pa.table({"two": [1]}), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as copies with their times have
    assert path.stat().st_size == before.st_size
    assert read_footer(path).schema.names == ["two"]


@pytest.mark.parametrize("what", LYING)
def test_what_lies_in_a_files_place_is_told(tmp_path, what):
    write, words = LYING[what]
    path = write_day(tmp_path / "data", "ads", 0, day_table("ads", 0))
    write(path, day_table("ads", 0))
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    with connect(config) as db:
        (violation,) = validate_day(db, config, "ads", FIRST).violations
    assert words in str(violation)
    assert violation.where == str(path)
    columns = {
        "user_id": "user_id",
        "item_id": "item_id",
        "ts": "ts",
        "click": "click",
        "domain": "'ads'",
    }
    features = {name: name for name in ("category", "brand", "flag", "price", "tags", "words")}
    mapping = Mapping(log={"files": ["*.parquet"]}, **columns, features=features)
    with pytest.raises(ContractError, match=r"part-0\.parquet cannot be read: "):
        import_log(mapping, path.parent, tmp_path / "out")


@pytest.mark.parametrize("where", ["log", "joined"])
def test_a_damaged_file_of_a_join_is_told(tmp_path, where):
    table = pa.table({"colour": ["red"] * 9, "item": list(range(9))})
    damaged("item")(tmp_path / "j.parquet", table)
    if where == "joined":
        (tmp_path / "a.csv").write_text(rows())
        files, joined = "a.csv", "j.parquet"
    else:
        (tmp_path / "a.csv").write_text("item,colour\n1,red\n")
        files, joined = "j.parquet", "a.csv"
    mapping = Mapping(
        log={"files": [files]}, joins={"j": {"files": [joined], "key": "item"}}, **BASE
    )
    with pytest.raises(
        ContractError, match=r"mapping joins\.j: .*j\.parquet cannot be read: expected a whole"
    ):
        import_log(mapping, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("unit", ["us", "ms"])
@pytest.mark.parametrize(
    "rule", [{"ts": "shown"}, {"click": "shown"}, {"features": {"x": "shown::VARCHAR"}}]
)
def test_a_time_that_is_none_is_told_with_its_column(tmp_path, unit, rule):
    """What numpy calls NaT is the least of all integers, a value like others in Parquet."""
    times = pa.array([-(2**63), *range(39)], pa.timestamp(unit))
    table = pa.table(
        {
            "user": [1, 2] * 20,
            "item": [5] * 40,
            "t": [START + i for i in range(40)],
            "clicked": [0, 1] * 20,
            "kind": ["ads", "ads", "natural", "natural"] * 10,
            "shown": times,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    mapping = Mapping(log={"files": ["a.parquet"]}, **BASE | rule)
    with pytest.raises(
        ContractError, match=r"a\.parquet cannot be read: column shown holds a time that is none"
    ):
        import_log(mapping, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ({"features": {"n": "item", "x": "'abc'::BIGINT"}}, r"features\.x"),
        ({"features": {"n": "item", "x": "kind::BIGINT"}}, r"features\.x"),
        ({"ts": "'abc'::TIMESTAMP"}, "ts"),
        ({"ts": "strptime('abc', '%Y')"}, "ts"),
        ({"click": "clicked = 'abc'::INT"}, "click"),
        ({"domain": "CASE WHEN clicked = 'abc'::INT THEN 'ads' ELSE kind END"}, "domain"),
        ({"user_id": "chr(-user::INT)"}, "user_id"),
    ],
)
def test_what_cannot_be_computed_is_named_with_its_key_and_not_called_an_aggregate(
    tmp_path, rule, key
):
    (tmp_path / "a.csv").write_text(rows())
    mapping = Mapping(log={"files": ["a.csv"]}, **BASE | rule)
    place = rf"under {key}, first in line 2"
    words = rf"a\.csv cannot be read as the mapping says {place}: (Conversion|Invalid)"
    with pytest.raises(ContractError, match=words):
        import_log(mapping, tmp_path, tmp_path / "out")


def test_a_day_whose_files_are_whole_is_good(tmp_path):
    for day in range(2):
        write_day(tmp_path / "data", "ads", day, day_table("ads", day))
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    with connect(config) as db:
        for day in range(2):
            assert not validate_day(db, config, "ads", FIRST + dt.timedelta(days=day)).violations


def test_parquet_without_rows_may_declare_anything_in_an_import(tmp_path):
    """As what writes nothing does: other types, none at all."""
    table = day_table("ads", 0)
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.table({"user_id": pa.array([], pa.string())}), tmp_path / "b.parquet")
    pq.write_table(pa.table({}), tmp_path / "c.parquet")
    columns = {"user_id": "user_id", "item_id": "item_id", "ts": "ts", "click": "click"}
    domain = "CASE WHEN user_id % 2 = 0 THEN 'ads' ELSE 'natural' END"
    mapping = Mapping(log={"files": ["*.parquet"]}, **columns, domain=domain)
    assert import_log(mapping, tmp_path, tmp_path / "out").read == table.num_rows


@pytest.mark.parametrize(
    ("name", "hint"),
    [(r"logs\a.csv", "write folders with /"), ("s3://b/a.csv", "copy what lies at a URL first")],
)
def test_a_name_of_another_system_is_told(tmp_path, name, hint):
    with pytest.raises(ConfigError, match=f"No file matches .*; {hint}"):
        import_log(Mapping(log={"files": [name]}, **BASE), tmp_path, tmp_path / "out")


FULL = [
    OSError(28, "No space left on device"),
    duckdb.IOException("IO Error: Could not write: No space left on device"),
    duckdb.OutOfMemoryException("Out of Memory Error: no block"),
    pa.ArrowMemoryError("malloc failed"),
]


def failing(error: Exception) -> Callable[..., None]:
    def fails(*_: object) -> None:
        raise error

    return fails


@pytest.mark.parametrize("error", FULL)
def test_a_machine_without_room_is_no_damage_of_a_log(tmp_path, monkeypatch, error):
    """The same command may succeed later."""
    (tmp_path / "a.csv").write_text(rows())
    monkeypatch.setattr(csv_text, "_count", failing(error))
    with pytest.raises(type(error)):
        import_log(Mapping(log={"files": ["a.csv"]}, **BASE), tmp_path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("error", FULL[1:3])
def test_a_machine_without_room_is_no_damage_of_a_day(tmp_path, monkeypatch, error):
    write_day(tmp_path / "data", "ads", 0, day_table("ads", 0))
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    monkeypatch.setattr(contract, "_check_rows", failing(error))
    with connect(config) as db, pytest.raises(type(error)):
        validate_day(db, config, "ads", FIRST)


def test_statistics_that_the_values_contradict_are_told_as_damage(tmp_path, monkeypatch):
    """DuckDB notices them in a query of groups alone."""
    path = write_day(tmp_path / "data", "ads", 0, day_table("ads", 0))
    said = "Perfect hash aggregate: the statistics in your data source are corrupt"
    monkeypatch.setattr(quality, "measure", failing(duckdb.InvalidInputException(said)))
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    words = f"{path}: .*found a damaged one .{said}"
    with connect(config) as db, pytest.raises(ContractError, match=words):
        quality._profile(db, config, "ads", FIRST)


def flip_a_value(path: Path, column: str) -> None:
    """Change a bit of a value in an uncompressed page, which is whole in every other respect."""
    row_group = pq.read_metadata(path).row_group(0)
    columns = [row_group.column(i) for i in range(row_group.num_columns)]
    chunk = next(c for c in columns if c.path_in_schema == column)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 8] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_page_whose_checksum_is_wrong_is_told(tmp_path, dictionary):
    """Spark writes checksums; what has none cannot be known to be another value."""
    path = write_day(tmp_path / "data", "ads", 0, day_table("ads", 0))
    config = config_of(tmp_path / "data", tmp_path / "prepared")

    def violations(checksums: bool, flipped: bool) -> list[str]:
        how = {"write_page_checksum": checksums, "use_dictionary": dictionary}
        pq.write_table(day_table("ads", 0), path, compression="none", **how)
        if flipped:
            flip_a_value(path, "price")
        with connect(config) as db:
            return [str(v) for v in validate_day(db, config, "ads", FIRST).violations]

    assert violations(True, False) == []
    (told,) = violations(True, True)
    assert told.startswith(f"{path}: expected a whole Parquet file, found a damaged one (")
    mapping = Mapping(
        log={"files": ["*.parquet"]},
        user_id="user_id",
        item_id="item_id",
        ts="ts",
        click="click",
        domain="'ads'",
    )
    with pytest.raises(ContractError, match=r"part-0\.parquet cannot be read: expected a whole"):
        import_log(mapping, path.parent, tmp_path / "out")
    if not dictionary:
        assert violations(False, True) == []


def test_whatever_a_reader_says_of_a_damaged_file_names_it(tmp_path):
    """DuckDB and Arrow name no file, and DuckDB's own errors ask to report them."""
    paths = [write_day(tmp_path, "ads", day, day_table("ads", day)) for day in range(3)]

    def read(error: Exception) -> None:
        with one_reading():
            parquet(paths)
            raise error

    internal = duckdb.InternalException("INTERNAL Error: Perfect hash aggregate: group 65")
    said = [internal, pa.ArrowInvalid("Column 3"), OSError("Couldn't deserialize thrift")]
    for error in said:
        with pytest.raises(type(error), match=str(error)):
            read(error)
    damaged("price")(paths[1], day_table("ads", 1))
    for error in said:
        with pytest.raises(ContractError, match=f"{paths[1]} cannot be read: .* Deliver it again"):
            read(error)
    full = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        read(full)


def test_values_beyond_a_files_own_statistics_are_damage(tmp_path):
    """The kind that DuckDB notices in a query of groups alone."""
    path = write_day(tmp_path, "ads", 0, day_table("ads", 0))
    pq.write_table(day_table("ads", 0), path, compression="none", use_dictionary=False)
    assert first_damaged([tmp_path / "gone.parquet", path]) is None
    flip_a_value(path, "user_id")
    content = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(0).column(0)
    end = chunk.data_page_offset + chunk.total_compressed_size
    path.write_bytes(content[: end - 1] + b"\x7f" + content[end:])
    assert first_damaged([path]) == (
        f"{path} cannot be read: expected a whole Parquet file, found a damaged one (values of "
        "column user_id contradict its statistics)"
    )


@pytest.mark.parametrize("memory", [False, True])
def test_what_is_prepared_and_changed_on_its_disk_is_made_again(tmp_path, caplog, memory):
    """Also where it still decodes, so that nothing but its digest tells."""
    for domain in ("natural", "ads"):
        for day in range(2):
            write_day(tmp_path / "data", domain, day, day_table(domain, day))
    config = changed(config_of(tmp_path / "data", tmp_path / "prepared"), "memory", enabled=memory)
    day = FIRST + dt.timedelta(days=1)
    prepare(config, "ads", [day])
    made = {path: path.read_bytes() for path in (tmp_path / "prepared").rglob("*.parquet")}
    assert len(made) > 3
    for path, content in made.items():
        path.write_bytes(content[:-1] + b"?")
    with caplog.at_level("INFO"):
        prepare(config, "ads", [day])
    assert {path: path.read_bytes() for path in made} == made
    assert caplog.text.count("it is made again") == len(made)
    for path in made:
        path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\xfe")
    prepare(config, "ads", [day])
    assert {path: path.read_bytes() for path in made} == made
    assert caplog.text.count("it is made again") == 2 * len(made)


def test_a_prepared_file_without_a_digest_is_named_by_who_reads_it_when_damaged(tmp_path):
    for domain in ("natural", "ads"):
        write_day(tmp_path / "data", domain, 0, day_table(domain, 0))
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    (day,) = prepare(config, "ads", [FIRST])
    for seal in day.path.parent.glob("*.sha256"):
        seal.unlink()  # an earlier release wrote none
    with day.path.open("r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 200)
    words = f"{day.path} cannot be read: .* remove it if preparation made it"
    with pytest.raises(ContractError, match=words), one_reading():
        list(read_chunks([Part(prepare(config, "ads", [FIRST])[0].path, "ads")], None, 100))
    with pytest.raises(ContractError, match=words), one_reading(), connect(config) as db:
        distinct(db, [day.path], "user_id", False)


def test_a_day_behind_one_that_spoils_the_connection_is_read(tmp_path, monkeypatch):
    """After an internal error DuckDB answers every query with an error."""
    for day in range(2):
        write_day(tmp_path / "data", "ads", day, day_table("ads", day))
    check, spoilt = contract._check_rows, []

    def checked(connection: duckdb.DuckDBPyConnection, *rest: object) -> object:
        if not spoilt:
            spoilt.append(connection)
            raise duckdb.InternalException("INTERNAL Error: Perfect hash aggregate")
        assert connection not in spoilt
        return check(connection, *rest)

    monkeypatch.setattr(contract, "_check_rows", checked)
    first, second = contract.validate(config_of(tmp_path / "data", tmp_path / "prepared"), ["ads"])
    assert [violation.kind for violation in first.violations] == ["unreadable"]
    assert second.violations == []


def test_a_file_that_this_user_may_not_read_is_not_called_damaged(tmp_path):
    """Whoever is told to remove it would lose a sound day."""
    error = duckdb.IOException(f'Cannot open file "{tmp_path}/part-0.parquet": Permission denied')
    (tmp_path / "part-0.parquet").write_bytes(b"")
    refuse_damaged(error, [tmp_path / "part-0.parquet"])
    assert "give this user the right to read" in str(machine_trouble(error))
