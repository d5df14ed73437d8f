"""A shard is whole or absent; a damaged one is named."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from atlas.errors import ShardError
from atlas.shards import (
    SILENT_S,
    Shard,
    ShardSet,
    count_to_measure,
    is_done,
    new_shard,
    note_failure,
    shard_facts,
    shard_files,
    shard_rows,
    shard_sets,
    write_whole,
)

ROWS = pa.table({"token_id": pa.array([1, 2, 3], pa.int32()), "token": ["a", "b", "c"]})


def write(root: Path, shard: Shard, **facts: int) -> None:
    with new_shard(root, shard) as draft:
        draft.write("vocab", ROWS)
        draft.facts.update(facts)


def test_files_in_shard_order_and_facts_added(tmp_path: Path) -> None:
    for index in (2, 0, 1):
        write(tmp_path, Shard("key", index, 3), tokens=index + 1)
    names = [path.parent.name for path in shard_files(tmp_path, "vocab")]
    assert names == ["shard-00000-of-00003", "shard-00001-of-00003", "shard-00002-of-00003"]
    assert shard_facts(tmp_path) == {"tokens": 6}
    assert is_done(tmp_path, Shard("key", 1, 3))
    with pytest.raises(ShardError, match="has fingerprint key, expected is other"):
        is_done(tmp_path, Shard("other", 1, 3))


@pytest.mark.parametrize("total", [0, 1, 7, 100])
@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_spans_partition_the_items(total: int, of: int) -> None:
    spans = [Shard("k", i, of).span(total) for i in range(of)]
    assert [x for span in spans for x in span] == list(range(total))


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError), new_shard(tmp_path, Shard("key")) as draft:
        draft.write("vocab", ROWS)
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_worker_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".shard-00000-of-00001.dead.tmp").mkdir()
    write(tmp_path, Shard("key"))
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000-of-00001"]


def test_missing_shard(tmp_path: Path) -> None:
    write(tmp_path, Shard("key", 0, 2))
    with pytest.raises(ShardError, match="1 of 2 shards"):
        shard_files(tmp_path, "vocab")


def test_mixed_fingerprints(tmp_path: Path) -> None:
    write(tmp_path, Shard("one", 0, 2))
    write(tmp_path, Shard("two", 1, 2))
    with pytest.raises(ShardError, match="mixes shards"):
        shard_files(tmp_path, "vocab")


def test_truncated_parquet(tmp_path: Path) -> None:
    write(tmp_path, Shard("key"))
    file = tmp_path / "shard-00000-of-00001" / "vocab.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ShardError, match=r"vocab\.parquet is truncated or damaged.*rerun the build"):
        shard_files(tmp_path, "vocab")


def test_wrong_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_shard(tmp_path, Shard("key")) as draft:
        draft.write("vocab", ROWS.drop_columns("token"))


def test_a_complete_set_is_read_beside_a_begun_one(tmp_path: Path) -> None:
    write(tmp_path, Shard("key", 0, 3), tokens=100)
    for index in range(2):
        write(tmp_path, Shard("key", index, 2), tokens=1)
    assert [path.parent.name for path in shard_files(tmp_path, "vocab")] == [
        "shard-00000-of-00002",
        "shard-00001-of-00002",
    ]
    assert shard_facts(tmp_path) == {"tokens": 2} and shard_rows(tmp_path) == 6


def test_two_complete_sets_are_refused(tmp_path: Path) -> None:
    write(tmp_path, Shard("key"))
    for index in range(2):
        write(tmp_path, Shard("key", index, 2))
    for read in (lambda: shard_files(tmp_path, "vocab"), lambda: shard_facts(tmp_path), lambda: shard_rows(tmp_path)):
        with pytest.raises(ShardError, match=r"complete sets of 1 and 2 shards.*delete the folders shard-\*-of-00002"):
            read()


def test_the_name_of_the_folder_is_the_fingerprint(tmp_path: Path) -> None:
    root = tmp_path / "relp-0123456789ab"
    write(root, Shard("0123456789abcdef"))
    assert len(shard_files(root, "vocab")) == 1
    other = root.rename(tmp_path / "relp-ba9876543210")
    with pytest.raises(ShardError, match="has fingerprint 0123456789ab, expected is ba9876543210"):
        shard_files(other, "vocab")


@pytest.mark.parametrize(
    ("sets", "count"),
    [
        ([], 2),
        ([ShardSet(2, (0,))], 2),
        ([ShardSet(5, (0, 3))], 5),
        ([ShardSet(2, (0,)), ShardSet(5, (0, 3))], 2),
        ([ShardSet(3, (0,)), ShardSet(5, (0, 3))], 2),
        ([ShardSet(2, (0,)), ShardSet(3, (0, 1, 2))], 3),
        ([ShardSet(5, running=(1,))], 2),
    ],
)
def test_the_count_to_measure(sets: list[ShardSet], count: int) -> None:
    assert count_to_measure(sets, 2) == count


def test_two_workers_of_one_shard_keep_the_first(tmp_path: Path) -> None:
    with new_shard(tmp_path, Shard("key")) as slow:
        write(tmp_path, Shard("key"), tokens=1)
        assert slow.folder.is_dir(), "another worker's draft is not touched"
        slow.write("vocab", ROWS)
    assert shard_facts(tmp_path) == {"tokens": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000-of-00001"]


def test_a_shard_of_another_fingerprint_is_never_replaced(tmp_path: Path) -> None:
    write(tmp_path, Shard("one"))
    with pytest.raises(ShardError, match="has fingerprint one, expected is two"):
        write(tmp_path, Shard("two"))
    assert is_done(tmp_path, Shard("one"))


def test_what_a_folder_holds(tmp_path: Path) -> None:
    assert shard_sets(tmp_path / "none") == []
    write(tmp_path, Shard("key", 2, 4))
    note_failure(tmp_path, Shard("key", 0, 4), ValueError("no room"))
    note_failure(tmp_path, Shard("key", 2, 4), ValueError("later done elsewhere"))
    with new_shard(tmp_path, Shard("key", 1, 4)) as draft:
        (found,) = shard_sets(tmp_path)
        os.utime(draft.folder, (0, time.time() - SILENT_S - 1))
        (silent,) = shard_sets(tmp_path)
    assert (found.of, found.done, found.running, found.missing) == (4, (2,), (1,), (0, 3))
    assert [(index, text.split(" (")[0]) for index, text in found.failures] == [(0, "ValueError: no room")]
    assert (silent.running, silent.missing) == ((), (0, 1, 3))
    write(tmp_path, Shard("key", 0, 4))
    assert shard_sets(tmp_path)[0].failures == ()
    assert not (tmp_path / "shard-00000-of-00004.failed.json").exists()


def test_a_dead_process_of_this_host_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from atlas.shards import Shard, new_shard\n"
        f"with new_shard(Path({str(tmp_path)!r}), Shard('key', 1, 2)): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    assert shard_sets(tmp_path) == []
    write(tmp_path, Shard("key", 0, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000-of-00002"]


def test_readers_of_a_small_file_see_a_whole_one(tmp_path: Path) -> None:
    file, texts = tmp_path / "f.json", [str(i) * 200_000 for i in range(4)]
    write_whole(file, texts[0])
    writers = [threading.Thread(target=lambda t=t: [write_whole(file, t) for _ in range(20)]) for t in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert file.read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    with new_shard(tmp_path, Shard("f")) as draft:
        draft.write("token_counts", pa.table({"token_id": list(range(500)), "n": list(range(500))}))
    path = tmp_path / Shard("f").name / "token_counts.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"has not the content that its marker says; delete"):
        shard_files(tmp_path, "token_counts")
