"""Tokens at rest, and `atlas serve` and `atlas token` as commands: what they refuse, in one line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

from atlas.cli.main import main
from atlas.errors import InputError
from atlas.server.tokens import Tokens


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("tokens") / "small.duckdb", small_tables())


def ran(*arguments: object, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "atlas", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def process(file: Path) -> Iterator[subprocess.Popen[str]]:
    """`atlas serve --port 0`, started."""
    command = [sys.executable, "-m", "atlas", "serve", "--atlas", str(file), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        yield started
        started.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def test_only_a_hash_is_kept_and_others_cannot_read_it(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "server")
    secret = tokens.add("laptop")
    text = tokens.file.read_text()
    assert secret not in text and hashlib.sha256(secret.encode()).hexdigest() in text
    assert len(secret) > 40 and tokens.file.stat().st_mode & 0o077 == 0
    assert tokens.file.parent.stat().st_mode & 0o077 == 0
    assert tokens.owner(secret) == "laptop" and tokens.owner(secret + "x") is None and tokens.owner("") is None
    assert tokens.add("phone") != secret


def test_a_running_server_sees_what_another_process_changed(tmp_path: Path) -> None:
    running, other = Tokens(tmp_path), Tokens(tmp_path)
    assert not running.any()
    secret = other.add("one")
    assert running.owner(secret) == "one"
    other.remove("one")
    assert running.owner(secret) is None and not running.any()


def test_none_is_lost_when_many_are_added_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(lambda n: Tokens(tmp_path).add(f"t{n}"), range(24)))
    assert len({Tokens(tmp_path).owner(one) for one in secrets}) == 24


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä/b", "a\n"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no name for a token"):
        Tokens(tmp_path).add(name)
    assert not Tokens(tmp_path).any()


def test_the_commands(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["token", *arguments, "--atlas", str(file), "--data", str(tmp_path)])
        return (stop.value.code, *capsys.readouterr())

    code, secret, _ = run("add", "laptop")
    assert code == 0 and Tokens(tmp_path).owner(secret.strip()) == "laptop"
    assert re.fullmatch(r"laptop  \d{4}-\d\d-\d\dT.*\n", run("list")[1])
    assert run("add", "laptop")[0] == 2
    assert run("remove", "phone")[2] == "atlas: no token 'phone'; atlas token list shows them\n"
    assert run("remove", "laptop")[0] == 0 and run("list")[1] == ""


def test_an_open_address_needs_a_token(file: Path) -> None:
    code, _, told = ran("serve", "--atlas", file, "--host", "0.0.0.0", "--port", 0)
    assert code == 2 and "atlas token add NAME" in told and told.count("\n") == 1


def test_a_port_in_use_is_one_line_and_the_port_may_come_from_the_environment(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, told = ran("serve", "--atlas", file, PORT=str(port))
    assert code == 1 and told.count("\n") == 1
    assert told.startswith(f"atlas: cannot listen on 127.0.0.1 port {port}: address already in use")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--port", "70000"], "70000 is not in the range"),
        (["--rate", "often"], 'write it as "600/minute"'),
        (["--memory", "much"], "cannot read a size"),
        (["--allow-origin", "page.example"], "names no origin"),
        (["--host", "no.such.host.invalid", "--require-token"], "no.such.host.invalid"),
    ],
)
def test_settings_that_are_refused(file: Path, given: list[str], told: str) -> None:
    code, _, errors = ran("serve", "--atlas", file, "--port", 0, *given)
    assert code == 2 and told in errors and "Traceback" not in errors


def test_no_atlas_is_one_line(tmp_path: Path) -> None:
    code, _, told = ran("serve", "--atlas", tmp_path / "none.duckdb", "--port", 0)
    assert code == 2 and told.startswith("atlas: no atlas at") and told.count("\n") == 1
    (tmp_path / "bad.duckdb").write_bytes(b"no database")
    code, _, told = ran("serve", "--atlas", tmp_path / "bad.duckdb", "--port", 0)
    assert code == 1 and told.count("\n") == 1


def test_it_serves_until_it_is_told_to_stop_and_a_second_one_is_refused(
    file: Path, process: subprocess.Popen[str]
) -> None:
    address = said(process).split()[0]
    with urllib.request.urlopen(address + "api/health") as answer:
        assert json.load(answer)["status"] == "healthy"
    code, _, told = ran("serve", "--atlas", file, "--port", 0)
    assert code == 1 and told.count("\n") == 1 and "another server" in told
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=20)
    assert process.returncode in (0, 130) and "Traceback" not in rest
