"""One cell that is no number among numbers: told, or refused where numbers are declared."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecdctr.cli import app
from ecdctr.cli.net import run as command
from ecdctr.errors import ConfigError, ContractError
from ecdctr.impressions.importer import import_log
from ecdctr.impressions.mapping import Mapping
from ecdctr.impressions.odd_cells import Declared
from tests.impressions.imported import BASE, START, column, kind_of, rows, run

ODD = {
    "inf": r"Write nulls: \['inf'\] under",
    "5%": r"replace\(price, ''%'', ''''\)::DOUBLE' if all cells are in per cent",
    '"1,234.5"': r"replace\(price, '','', ''''\)::DOUBLE' if commas part thousands",
    '"4,5"': r"replace\(price, '','', ''.''\)::DOUBLE' if the comma parts the fraction",
    "n/a": r"Write nulls: \['n/a'\] under",
    "1e400": r"TRY_CAST\(price AS DOUBLE\)' if such cells mean none",
    "1_000": r"TRY_CAST\(price AS DOUBLE\)' if such cells mean none",
    "0x1F": r"TRY_CAST\(price AS DOUBLE\)' if such cells mean none",
}


def priced(odd: str, line: int, day: int = 0) -> str:
    """Return a day's log with a price, of which the one on a line of the file is odd."""
    head, *lines = rows(start=START + day * 86_400).splitlines()
    prices = [odd if i == line else "2.5" for i in range(2, len(lines) + 2)]
    return "\n".join([head + ",price", *(map(",".join, zip(lines, prices, strict=True)))]) + "\n"


def imported(folder: Path, kind: str, log: dict | None = None, **changes) -> None:
    """Import the files of a folder with a price that a configuration declares of a kind."""
    mapping = Mapping(log={"files": ["*.csv"]} | (log or {}), **(BASE | changes))
    import_log(mapping, folder, folder / "data", declared=Declared("my.yaml", {"price": kind}))


@pytest.mark.parametrize("odd", ODD)
def test_a_cell_that_is_no_number_is_refused_where_one_is_declared(tmp_path, odd):
    (tmp_path / "a.csv").write_text(priced("1.25", 9))
    (tmp_path / "b.csv").write_text(priced(odd, 15, day=1))
    value = odd.strip('"')
    words = (
        rf"^b.csv, line 15: features.price is '{value}', which is no number .* my.yaml declares it "
        rf"numeric; 1 of 80 cells are so. .*{ODD[odd]}"
    )
    with pytest.raises(ContractError, match=words):
        imported(tmp_path, "numeric", features={"price": "price"})
    assert not list((tmp_path / "data").iterdir())
    imported(tmp_path, "categorical", features={"price": "price"})
    assert set(column(tmp_path, "price")) == {"1.25", "2.5", value}


@pytest.mark.parametrize("odd", ODD)
def test_where_no_number_is_declared_the_cell_is_told_and_kept(tmp_path, odd):
    heard: list[str] = []
    run(tmp_path, {"a.csv": priced(odd, 7)}, on_file=heard.append, features={"price": "price"})
    assert heard[0].startswith("log.price is text, since ")
    assert kind_of(tmp_path, "price") == "string"
    if odd != "n/a":  # the words for nothing have a sentence of their own
        value = odd.strip('"')
        assert heard[0].endswith(
            f"'{value}' (a.csv, line 7) is no number; mend it, or write nulls: ['{value}'] if it "
            "means none"
        )


def test_what_the_sentences_say_makes_numbers(tmp_path):
    (tmp_path / "a.csv").write_text(priced('"1,234.5"', 7))
    imported(tmp_path, "numeric", features={"price": "replace(price, ',', '')::DOUBLE"})
    assert set(column(tmp_path, "price")) == {1234.5, 2.5}
    for odd, log, rule in (
        ("inf", {"nulls": ["inf"]}, "price"),
        ("x", {}, "TRY_CAST(price AS DOUBLE)"),
    ):
        folder = tmp_path / odd
        folder.mkdir()
        (folder / "a.csv").write_text(priced(odd, 7))
        imported(folder, "numeric", log, features={"price": rule})
        assert set(column(folder, "price")) == {None, 2.5}


def test_text_of_numbers_that_would_be_one_is_refused_with_the_type_to_write(tmp_path):
    (tmp_path / "a.csv").write_text(priced("2.50", 7))
    words = r"'price' gives text \(price is text, since 2.5 and 2.50 would be one number\), but"
    with pytest.raises(ContractError, match=words):
        imported(tmp_path, "numeric", features={"price": "price"})


@pytest.mark.parametrize(
    ("kind", "rule", "expected"),
    [
        ("numeric", "price > 1", "gives BOOLEAN, expected a number"),
        ("multi_valued", "item", "gives BIGINT, expected a list, since my.yaml declares it multi-"),
        ("categorical", "[item]", r"gives BIGINT\[\], expected one value"),
    ],
)
def test_another_kind_than_declared_is_refused(tmp_path, kind, rule, expected):
    (tmp_path / "a.csv").write_text(priced("2.5", 7))
    with pytest.raises(ContractError, match=expected):
        imported(tmp_path, kind, features={"price": rule})


def test_a_cell_of_a_label_a_time_and_an_id_is_named_with_its_line(tmp_path):
    log = rows()
    third = log.splitlines()[3].split(",")
    changed = {name: log.replace(",".join(third), ",".join([*third[:i], "5%", *third[i + 1 :]]))
               for i, name in enumerate(("user", "item", "t", "clicked"))}  # fmt: skip
    place = r"'5%' \(a.csv, line 4\) is no number"
    with pytest.raises(ConfigError, match=f"click: .* compares text with a number .{place}"):
        run(tmp_path / "clicked", {"a.csv": changed["clicked"]})
    with pytest.raises(ConfigError, match=rf"ts: .* t VARCHAR \(text, since {place}"):
        run(tmp_path / "t", {"a.csv": changed["t"]})
    heard: list[str] = []
    run(tmp_path / "user", {"a.csv": changed["user"]}, on_file=heard.append)
    said = "log.user is text, since '5%' (a.csv, line 4) is no number; mend it if ids are numbers"
    assert heard[0] == said


def test_a_cell_of_a_join_is_named_by_the_row_of_the_log_that_finds_it(tmp_path):
    items = "item,price\n" + "".join(f"{100 + i},{'5%' if i == 2 else 1.5}\n" for i in range(5))
    (tmp_path / "items.csv").write_text(items)
    (tmp_path / "a.csv").write_text(rows())
    mapping = Mapping(
        log={"files": ["a.csv"]},
        joins={"items": {"files": ["items.csv"], "key": "item"}},
        features={"price": "items.price"},
        **(BASE | {"item_id": "log.item"}),
    )
    with pytest.raises(ContractError, match=r"^a.csv, line 4: features.price is '5%'"):
        import_log(
            mapping, tmp_path, tmp_path / "data", declared=Declared("c", {"price": "numeric"})
        )


def test_the_command_reads_the_configuration_that_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ECDCTR_CONFIG", raising=False)
    Path("a.csv").write_text(priced("5%", 3))
    Path("my.yaml").write_text(
        "data: {root: data}\nfeatures: [{name: price, side: item, kind: numeric}]\n"
    )
    Path("m.yaml").write_text(
        "log: {files: [a.csv]}\nfeatures: {price: price}\n"
        + "".join(f"{key}: {value}\n" for key, value in BASE.items())
    )
    words = ["import", "log", "--mapping", "m.yaml"]
    assert command(app, ["--config", "my.yaml", *words]) == 1
    assert command(app, ["--config", "my.yaml", *words, "--out", "data"]) == 1
    said = capsys.readouterr().err
    assert said.count("ecdctr: a.csv, line 3: features.price is '5%'") == 2
    assert not list(Path("data").iterdir())
    assert command(app, [*words, "--out", "data"]) == 0
    assert "log.price is text, since '5%' (a.csv, line 3) is no number" in capsys.readouterr().err
