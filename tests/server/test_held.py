"""One file, many readers: replaced while they read, by a good file or a bad one, taken away, brought back."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served import Served
from synthetic import random_tables, small_tables, write_atlas

from atlas.errors import InputError, ResourceError, StoreError
from atlas.server.held import HeldAtlas

Start = Callable[..., Served]
CARD = "/api/v1/neurons/L1/N2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_atlas(tmp_path / "a.duckdb", small_tables())


def drawn(folder: Path) -> Path:
    return write_atlas(folder / "drawn.duckdb", random_tables(1), layers=5, d_mlp=40)


def test_a_reader_keeps_the_file_it_began_with_and_it_is_closed_after_the_last(file: Path, tmp_path: Path) -> None:
    held = HeldAtlas(file)
    before = held.fingerprint()
    with held.use() as one, held.use() as two:
        os.replace(drawn(tmp_path), file)
        with held.use() as newer:
            assert (newer.layers, one.layers) == (5, 3) and one is two
        assert held.fingerprint() != before
        assert len(one.ask("neuron_card", {"of_layer": 1, "of_neuron": 2})) == 1
    with pytest.raises(StoreError, match="was closed"):
        one.cursor()
    with held.use() as newer:
        assert newer.layers == 5
    held.close()


def test_a_file_that_nobody_reads_is_closed_when_it_is_replaced(file: Path, tmp_path: Path) -> None:
    held = HeldAtlas(file)
    with held.use() as old:
        pass
    os.replace(drawn(tmp_path), file)
    with held.use() as newer, pytest.raises(StoreError, match="was closed"):
        assert newer.layers == 5
        old.cursor()
    held.close()


def test_many_that_come_at_once_open_a_new_file_once(file: Path, tmp_path: Path) -> None:
    held = HeldAtlas(file)
    os.replace(drawn(tmp_path), file)
    gate, seen = threading.Barrier(8), []

    def reader() -> None:
        gate.wait()
        for _ in range(20):
            with held.use() as atlas:
                seen.append((id(atlas), atlas.ask("neuron_card", {"of_layer": 4, "of_neuron": 39}).rows()[0]["layer"]))

    with ThreadPoolExecutor(8) as pool:
        for one in [pool.submit(reader) for _ in range(8)]:
            one.result()
    assert len(set(seen)) == 1 and len(seen) == 160
    held.close()


def test_readers_are_right_while_the_file_is_replaced_again_and_again(file: Path, tmp_path: Path) -> None:
    held, stop = HeldAtlas(file), threading.Event()
    kinds = {3: Path(shutil.copyfile(file, tmp_path / "three")), 5: drawn(tmp_path)}

    def reader() -> int:
        done = 0
        while not stop.is_set() or not done:
            with held.use() as atlas:
                last = atlas.layers - 1
                row = atlas.ask("neuron_card", {"of_layer": last, "of_neuron": 0}).rows()[0]
                assert row["layer"] == last and atlas.d_mlp == {3: 8, 5: 40}[atlas.layers]
                done += 1
        return done

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(reader) for _ in range(3)]
        for n in range(10):
            os.replace(shutil.copyfile(kinds[3 if n % 2 else 5], tmp_path / "next"), file)
            stop.wait(0.03)
        stop.set()
        assert all(one.result() > 0 for one in readers)
    held.close()


def test_a_bad_file_is_refused_in_one_way_until_a_good_one_is_there(file: Path, tmp_path: Path) -> None:
    held = HeldAtlas(file)
    good = shutil.copyfile(file, tmp_path / "good")
    with held.use() as reading:
        (tmp_path / "bad").write_bytes(b"no database")
        os.replace(tmp_path / "bad", file)
        for _ in range(3):
            with (
                pytest.raises(ResourceError, match=r"a\.duckdb was replaced by a file that cannot be read"),
                held.use(),
            ):
                pass
        assert len(reading.ask("neuron_card", {"of_layer": 1, "of_neuron": 2})) == 1, "who reads the old one goes on"
    os.replace(good, file)
    with held.use() as atlas:
        assert atlas.layers == 3
    held.close()


def test_a_file_that_is_taken_away_is_still_answered_from(file: Path, tmp_path: Path) -> None:
    held = HeldAtlas(file)
    before = held.fingerprint()
    file.rename(tmp_path / "elsewhere")
    assert held.gone and held.fingerprint() == before
    with held.use() as atlas:
        assert atlas.layers == 3
    held.close()


def test_there_must_be_a_file_at_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no atlas at"):
        HeldAtlas(tmp_path / "none.duckdb")


def test_the_server_tells_of_a_bad_file_and_recovers(start: Start, tmp_path: Path) -> None:
    served = start()
    kept = served.client.get(CARD)
    good = shutil.copyfile(served.settings.atlas, tmp_path / "good")
    served.settings.atlas.write_bytes(b"no database")  # in place, the same file
    told = served.client.get(CARD)
    assert told.status_code == 503 and "put a good one in its place" in told.json()["error"]
    assert str(tmp_path) not in told.text
    os.replace(good, served.settings.atlas)
    assert served.client.get(CARD).json() == kept.json()
    served.settings.atlas.unlink()
    assert served.client.get(CARD).status_code == 200
    assert "was taken away" in served.client.get("/api/health").json()["message"]
