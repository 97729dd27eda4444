"""What a command line names for its results is looked at before any work.

A file, a folder, a name, an address.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from ecdctr.cli import app, base, net, serving
from ecdctr.errors import ConfigError, StoreError
from ecdctr.files.urls import lacks_a_slash, looks_like_url
from ecdctr.store.storage import absolute

TRAIN = [
    "--config",
    "configs/tiny.yaml",
    "--store",
    "STORE",
    "train",
    "tpm",
    "--date",
    "2026-01-05",
]


def refused(capsys, arguments: list[str]) -> str:
    """Return the one sentence of a command that refuses, in which no work was done."""
    assert net.run(app, arguments) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("arguments", [
    [*TRAIN, "--result", "NAME"],
    ["validate", "--result", "NAME"],
    ["report", "--out", "NAME"],
    ["ablation", "--out", "NAME"],
    ["map", "--cells", "NAME"],
    ["score", "--bundle", "b", "--out", "NAME"],
], ids=lambda words: " ".join(words[-2:] + words[:1]))  # fmt: skip
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "folder is a folder; name a file in it"),
        ("file/below", "file is a file, expected a folder"),
        ("file/x/y", "file is a file"),
        ("pipe", "pipe is a pipe or a device; name a file"),
        ("lost/x", "lost is a link to nothing, expected a folder"),
        ("n" * 300, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, capsys, arguments, name, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    named = [
        word.replace("NAME", f"{tmp_path}/{name}").replace("STORE", f"{tmp_path}/s")
        for word in arguments
    ]
    assert words in refused(capsys, named)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file", "pipe", "lost"}
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", [".", "/"])
def test_a_folder_that_has_none_above_it_is_no_file_to_write(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, ["validate", "--result", name])
    assert f"{name} is a folder; name a file in it" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "--out", "NAME"],
        ["simulate", "--out", "NAME"],
        ["serve", "--bundles", "NAME"],
        ["import", "log", "--mapping", "m.yaml", "--out", "NAME"],
        ["patch", "--bundle", "b", "--changes", "c", "--out", "NAME"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ROOT/file", "file is a file, expected a folder"),
        ("ROOT/file/below", "file is a file"),
        ("ROOT/lost", "lost is a link to nothing, expected a folder"),
        ("~/x", "~/x starts with ~ and $NAME, which shells alone replace"),
        ("$HOME/x", "$HOME/x starts with"),
        ("s3://bucket/x", "is a URL"),
        ("s3:/bucket", "is a URL"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path, capsys, arguments, name, words):
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    target = name.replace("ROOT", str(tmp_path))
    assert words in refused(capsys, [word.replace("NAME", target) for word in arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["simulate", "--out", ""],
            "'--out': expected a name, found none; look whether a variable",
        ),
        (["validate", "--result", " "], "'--result': expected a name, found none"),
        (["export", "--out", "x", "--version", ""], "'' is not a version; expected experiment/"),
        (["evaluate", "--date", "2026-01-20", "--version", ""], "'' is not a version; expected"),
    ],
)
def test_an_empty_text_names_nothing_and_is_no_default(
    tmp_path, monkeypatch, capsys, arguments, words
):
    """It is what a shell makes of a variable that was never set: another version was exported."""
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "--out", "NAME"],
        ["simulate", "--out", "NAME"],
        ["serve", "--bundles", "NAME"],
        ["patch", "--bundle", "b", "--changes", "c", "--out", "NAME"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("store", "is"),
        ("store/bundle", "lies in"),
        ("x/../store/a/b", "lies in"),
        ("link/b", "lies in"),
    ],
)
def test_nothing_but_the_stores_own_is_written_into_it(tmp_path, capsys, arguments, name, how):
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    named = [word.replace("NAME", f"{tmp_path}/{name}") for word in arguments]
    said = refused(
        capsys, ["--config", "configs/tiny.yaml", "--store", f"{tmp_path}/store", *named]
    )
    place = os.path.realpath(f"{tmp_path}/{name}") if ".." in name else f"{tmp_path}/{name}"
    assert f"{arguments[-2]} {place} {how} the store {tmp_path}/store" in said
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize("parse", [base.file_to_write, base.folder_to_write])
def test_a_name_that_leads_back_out_of_a_folder_makes_no_such_folder(tmp_path, parse):
    assert parse(f"{tmp_path}/new/../b") == tmp_path / "b"
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    assert parse(tmp_path / "link" / ".." / "b") == tmp_path / "elsewhere" / "b"


@pytest.mark.parametrize(
    ("prepared", "how"), [("store", "is"), ("store/p", "lies in"), (".", "holds")]
)
def test_examples_are_not_prepared_in_the_store(tmp_path, capsys, prepared, how):
    """A folder of examples may be taken away at any time, and the versions with it."""
    (tmp_path / "c.yaml").write_text(
        f"data: {{root: /nowhere/log, prepared: '{tmp_path / prepared}'}}"
    )
    given = ["--config", f"{tmp_path}/c.yaml", "--store", f"{tmp_path}/store"]
    said = refused(capsys, [*given, "train", "tpm", "--date", "2026-01-05"])
    place = (tmp_path / prepared).resolve()
    assert f"data.prepared {place} {how} the store {tmp_path}/store; " in said


@pytest.mark.parametrize("below", ["", "/x", "/x/y"])
def test_a_store_is_never_a_file_nor_below_one(tmp_path, capsys, below):
    (tmp_path / "file").touch()
    said = refused(capsys, ["--store", f"{tmp_path}/file{below}", "store", "list"])
    assert f"{tmp_path}/file is a file, expected a folder" in said


def test_a_store_that_holds_nothing_is_not_shown_as_one_that_is_in_order(tmp_path, capsys):
    """Its name may be mistyped."""
    store = ["--store", f"{tmp_path}/typo"]
    assert net.run(app, [*store, "store", "list"]) == 0
    assert f"No versions in {tmp_path}/typo" in capsys.readouterr().out.replace("\n", "")
    assert net.run(app, [*store, "store", "verify"]) == 0
    assert re.search(r"versions +0\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["~", "~/s", "~me/s", "$HOME/s", "${HOME}/s"])
def test_a_store_is_never_made_below_what_a_shell_left_as_it_is(capsys, name):
    """A folder called ~ is one that somebody removes with all of his own."""
    said = refused(capsys, [f"--store={name}", "store", "list"])
    assert f"The store {name} starts with ~ and $NAME" in said


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("name", ["store", "s3://bucket/store"])
def test_an_end_of_line_is_no_part_of_a_stores_name(capsys, name, end):
    """As of a file of variables with the line ends of Windows: another store was made, unseen."""
    said = refused(capsys, [f"--store={name}{end}", "store", "list"])
    assert f"The store {name + end!r} ends with an end of line" in said


@pytest.mark.parametrize("name", ["./~", "a~", "x/~/y", "$", "$5", "a$B"])
def test_other_names_with_these_signs_are_names(name):
    assert absolute(name) == Path.cwd() / name


@pytest.mark.parametrize("name", ["../x", "a/b", "", "Ä", "x" * 64, ".hidden"])
@pytest.mark.parametrize(
    "command",
    [
        ["train", "tpm", "--date", "2026-01-05"],
        ["evaluate", "--date", "2026-01-05"],
        ["serve"],
        ["store", "list"],
    ],
    ids=" ".join,
)
def test_an_experiment_that_cannot_be_is_refused_before_any_work(capsys, command, name):
    if command == ["store", "list"] and not name:
        pytest.skip("empty is all of them there")
    assert f"'{name}' cannot be a name here" in refused(capsys, [*command, "--experiment", name])


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no.such.host.invalid", "--host 'no.such.host.invalid' is no address of this machine"),
        ("192.0.2.1", "--host '192.0.2.1' is no address"),
        ("a" * 70, "is no address of this machine"),
        ("127.0.0.1", "Cannot listen on 127.0.0.1:"),
        ("ff::1::2", "--host 'ff::1::2'"),
    ],
)
def test_where_it_cannot_listen_is_said_with_what_to_change(host, words):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(ConfigError, match=words),
            serving._listening(host, taken.getsockname()[1]),
        ):
            pass


def test_it_listens_on_addresses_of_both_kinds():
    for host in ("127.0.0.1", *(["::1"] if socket.has_ipv6 else [])):
        with serving._listening(host, 0) as listener:
            assert listener.getsockname()[1] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--host", ""],
        ["score", "--bundle", "b", "--threads", "999999999"],
        ["serve", "--threads", "999999999"],
    ],
    ids=" ".join,
)
def test_an_option_that_no_machine_has_is_refused_by_its_name(capsys, arguments):
    assert arguments[-2] in refused(capsys, arguments)


@pytest.mark.parametrize(
    ("text", "url", "short"),
    [
        ("s3://b/x", True, False),
        ("s3:/b", True, True),
        ("S3:/b", True, True),
        ("a+b.c-d:/x", True, True),
        ("folder", False, False),
        ("C:/x", False, False),
        ("a::b", False, False),
        ("s3:b", False, False),
        ("./s3:/x", False, False),
        ("", False, False),
    ],
)
def test_a_url_is_told_from_a_folder_in_one_way(text, url, short):
    assert (looks_like_url(text), lacks_a_slash(text)) == (url, short)
    if short:
        with pytest.raises(StoreError, match="neither a folder nor a URL"):
            absolute(text)


def test_requests_may_come_of_a_pipe():
    """As of a shell's <(…), which is a name of an open pipe."""
    reading, writing = os.pipe()
    os.write(writing, b'{"ts": 1}\n{"ts": 2}\n')
    os.close(writing)
    with serving._request_lines(Path(f"/dev/fd/{reading}")) as lines:
        assert list(lines) == [b'{"ts": 1}\n', b'{"ts": 2}\n']
    os.close(reading)


@pytest.mark.parametrize("arguments", [
    ["--config", "PIPE", "validate"], ["import", "log", "--mapping", "PIPE"],
    ["score", "--bundle", "b", "--examples", "PIPE", "--out", "o.parquet"],
])  # fmt: skip
def test_a_pipe_that_cannot_be_read_as_a_file_is_refused_by_name(tmp_path, capsys, arguments):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    said = refused(capsys, [word.replace("PIPE", str(pipe)) for word in arguments])
    assert str(pipe) in said
    assert "pipe" in said.replace(str(pipe), "")
