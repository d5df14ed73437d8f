"""A shard is whole or absent; a damaged one is named."""

from pathlib import Path

import pyarrow as pa
import pytest

from atlas.errors import ShardError
from atlas.shards import Shard, is_done, new_shard, shard_facts, shard_files

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
