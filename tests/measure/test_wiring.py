"""Wiring: the definition against autograd, the lists against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import shared_model, tiny_gpt2, tiny_llama, tokens
from torch import Tensor, nn

from atlas.errors import InputError, ModelError
from atlas.measure.wiring import Calibration, measure, read_calibration
from atlas.models.adapter import Adapter, load_model, weight
from atlas.models.norm import norm_of
from atlas.models.ranking import largest
from atlas.shards import Shard, new_shard, shard_files
from atlas.tables import SHARDS


def rows(root: Path) -> list[dict]:
    return pa.concat_tables(pq.read_table(p) for p in shard_files(root, "wiring")).to_pylist()


def calibration(adapter: Adapter, seed: int = 3) -> Calibration:
    rng, shape = np.random.default_rng(seed), (adapter.spec.layers, adapter.spec.d_mlp)
    return Calibration(rng.normal(size=shape) if adapter.spec.gated else None, rng.normal(size=shape))


def columns(adapter: Adapter, source: int, target: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Brute force from the definition: c_up, c_gate and raw lab strength, [target neuron, source neuron]."""
    block, writes = adapter.blocks[target], weight(adapter.blocks[source].down).numpy()
    gain = block.mlp_norm.weight.numpy()
    up = weight(block.up).numpy()
    if block.gate is None:
        read = up * gain
        return (read - read.mean(1, keepdims=True)) @ writes, None, None
    gate = weight(block.gate).numpy()
    raw_up, raw_gate = up @ writes, gate @ writes
    return (up * gain) @ writes, (gate * gain) @ writes, common(raw_up, raw_gate)


def common(up: np.ndarray, gate: np.ndarray) -> np.ndarray:
    both = np.abs(up) + np.abs(gate)
    return np.where((up > 0) & (gate > 0), both, np.where((up < 0) & (gate < 0), -both, 0))


def brute_lists(adapter: Adapter, means: Calibration | None, top: int) -> dict[tuple, list[tuple]]:
    """(layer, neuron, direction, polarity) -> [(other layer, other neuron, strength, c_up, c_gate, lab)]."""
    found: dict[tuple, list[tuple]] = {}
    spec = adapter.spec
    for source in range(spec.layers):
        for target in range(source + 1, spec.layers):
            up, gate, lab = columns(adapter, source, target)
            for n in range(spec.d_mlp):
                for m in range(spec.d_mlp):
                    c_gate = None if gate is None else gate[n, m]
                    strength = _strength(means, (target, n), up[n, m], c_gate)
                    if strength == 0:
                        continue
                    rest = (strength, up[n, m], c_gate, None if lab is None else lab[n, m])
                    sign = 1 if strength > 0 else -1
                    found.setdefault((source, m, "downstream", sign), []).append((target, n, *rest))
                    found.setdefault((target, n, "upstream", sign), []).append((source, m, *rest))
    return {key: sorted(v, key=lambda r: (-abs(r[2]), r[0], r[1]))[:top] for key, v in found.items()}


def _strength(means: Calibration | None, target: tuple[int, int], up: float, gate: float | None) -> float:
    if means is None:
        return float(up if gate is None else common(np.array(up), np.array(gate)))
    return means.up_mean[target] * up + (0 if gate is None else means.gate_mean[target] * gate)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("calibrated", [True, False])
def test_lists_equal_brute_force(make, calibrated: bool, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    adapter = make(layers=4)
    means = calibration(adapter) if calibrated else None
    measure(adapter, means, tmp_path, shard=Shard("f"), top=5)
    expected = brute_lists(adapter, means, 5)
    found = rows(tmp_path)
    assert len(found) == sum(len(v) for v in expected.values())
    for row in found:
        key = (row["layer"], row["neuron"], row["direction"], row["polarity"])
        other, neuron, strength, up, gate, lab = expected[key][row["rank"]]
        assert (row["other_layer"], row["other_neuron"]) == (other, neuron)
        assert row["effective_strength"] == pytest.approx(strength, rel=1e-5)
        assert np.sign(row["effective_strength"]) == row["polarity"]
        assert row["c_up"] == pytest.approx(up, rel=1e-5)
        assert row["c_gate"] == (None if gate is None else pytest.approx(gate, rel=1e-5))
        assert row["lab_strength"] == (None if lab is None else pytest.approx(lab, rel=1e-5))
        assert row["polarity_source"] == ("calibrated" if calibrated else "weights_only")


def test_pieces_of_a_tile_and_shards_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tiny_llama(torch.float32, layers=4)
    measure(adapter, calibration(adapter), tmp_path / "one", shard=Shard("f"), top=4)
    for index in range(3):
        measure(adapter, calibration(adapter), tmp_path / "many", shard=Shard("f", index, 3), top=4)
    assert rows(tmp_path / "many") == rows(tmp_path / "one")
    monkeypatch.setattr("atlas.measure.wiring._ROWS", 3)
    monkeypatch.setattr("atlas.measure.wiring._PAIRS", 7)
    measure(adapter, calibration(adapter), tmp_path / "pieces", shard=Shard("f"), top=4)
    ids = ("layer", "neuron", "direction", "polarity", "rank", "other_layer", "other_neuron")
    pieces, whole = rows(tmp_path / "pieces"), rows(tmp_path / "one")
    assert [[r[i] for i in ids] for r in pieces] == [[r[i] for i in ids] for r in whole]


def test_threads_change_no_bit(tmp_path: Path) -> None:
    adapter, before = tiny_llama(torch.float32, layers=4, d_mlp=80), torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            measure(adapter, None, tmp_path / str(threads), shard=Shard("f"))
    finally:
        torch.set_num_threads(before)
    assert rows(tmp_path / "1") == rows(tmp_path / "3")


def test_ties_go_to_the_smaller_neuron(tmp_path: Path) -> None:
    adapter = tiny_llama(layers=3)
    read = (4 * adapter.blocks[0].up.weight[0]).round()  # whole numbers: equal products are equal in every bit
    write = (4 * adapter.blocks[0].down.weight[:, :1]).round()
    for block in adapter.blocks:  # all neurons of the model are copies of one
        for module in (block.gate, block.up):
            module.weight.copy_(read.expand_as(module.weight))
        block.down.weight.copy_(write.expand_as(block.down.weight))
        block.mlp_norm.weight.fill_(1)
    measure(adapter, None, tmp_path, shard=Shard("f"), top=3)
    found = [r for r in rows(tmp_path) if (r["layer"], r["direction"]) == (0, "downstream")]
    assert len(found) == 3 * adapter.spec.d_mlp
    assert all((r["other_layer"], r["other_neuron"]) == (1, r["rank"]) for r in found)


def test_largest_breaks_ties_by_column() -> None:
    values = torch.randint(1, 4, (50, 40), generator=torch.Generator().manual_seed(0)).float()
    found, column = largest(values, 6)
    for row, (numbers, where) in enumerate(zip(found.tolist(), column.tolist(), strict=True)):
        brute = sorted(range(40), key=lambda c: (-float(values[row, c]), c))[:6]
        assert where == brute
        assert numbers == [float(values[row, c]) for c in brute]


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_columns_are_the_local_effect(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Attention blocked, norms frozen, activations as leaves: dh_n/dh_m = r (u act'(g) c_gate + act(g) c_up)."""
    adapter, ids, position = make(), tokens(6), 4
    source, target = 0, 2
    seen = _blocked_run(adapter, ids, monkeypatch)
    block = adapter.blocks[target]
    x = seen["x"][target]
    norm = norm_of(block.mlp_norm)
    factor, normed = norm.factor(x).detach()[0], norm(x).detach()[0]
    up = block.up(normed)
    c_up, c_gate, _ = columns(adapter, source, target)
    for n in (0, 5, 13):
        (found,) = torch.autograd.grad(seen["made"][target][0, position, n], seen["leaf"][source], retain_graph=True)
        if block.gate is None:
            expected = _slope(block.act, up)[position, n] * torch.from_numpy(c_up[n])
        else:
            gate = block.gate(normed)
            expected = up[position, n] * _slope(block.act, gate)[position, n] * torch.from_numpy(c_gate[n])
            expected = expected + block.act(gate)[position, n] * torch.from_numpy(c_up[n])
        error = (found[0, position] - factor[position] * expected).abs().max()
        assert error < 1e-12 * found.abs().max()
        elsewhere = [p for p in range(len(ids)) if p != position]
        assert (found[0, elsewhere] == 0).all() and found[0, position].abs().max() > 0


def _slope(act, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(act(x).sum(), x)[0]


def _blocked_run(adapter: Adapter, ids: list[int], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, Tensor]]:
    """The real modules with hooks of the test's own: nothing of atlas.models.replacement."""
    seen: dict[str, dict[int, Tensor]] = {"x": {}, "made": {}, "leaf": {}}

    def cut(index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            seen["made"][index] = args[0]
            seen["leaf"][index] = args[0].detach().requires_grad_(True)
            return (seen["leaf"][index],)

        return hook

    def frozen(module: nn.Module, index: int | None):  # type: ignore[no-untyped-def]
        norm = norm_of(module)

        def forward(x: Tensor) -> Tensor:
            if index is not None:
                seen["x"][index] = x
            return norm.apply(x, norm.factor(x).detach())

        return forward

    for block in adapter.blocks:
        block.attention.register_forward_hook(lambda _m, _a, out: (out[0].detach(), *out[1:]))
        block.down.register_forward_pre_hook(cut(block.index))
        monkeypatch.setattr(block.mlp_norm, "forward", frozen(block.mlp_norm, block.index), raising=False)
    adapter.model(torch.tensor([ids]), use_cache=False)
    return seen


def test_calibration_is_the_mean_over_shards(tmp_path: Path) -> None:
    for index in range(2):
        with new_shard(tmp_path, Shard("f", index, 2)) as draft:
            table = SHARDS["neuron_stats"].empty_table()
            base = dict.fromkeys(table.column_names)
            found = [
                {**base, "layer": k // 3, "neuron": k % 3, "n_tokens": 10 + index,
                 "calib_gate": float(k), "calib_up": 2.0 * k}
                for k in range(6)
            ]  # fmt: skip
            draft.write("neuron_stats", pa.Table.from_pylist(found, schema=SHARDS["neuron_stats"]))
    means = read_calibration(tmp_path)
    assert means.gate_mean is not None
    assert means.gate_mean[1, 2] == pytest.approx(10 / 21)
    assert means.up_mean[1, 0] == pytest.approx(12 / 21)
    with pytest.raises(InputError, match="calibration is for"):
        measure(tiny_llama(), means, tmp_path / "w", shard=Shard("f"))


def test_bad_weights_are_named(tmp_path: Path) -> None:
    adapter = tiny_llama()
    adapter.blocks[2].gate.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="layer 2"):
        measure(adapter, None, tmp_path, shard=Shard("f"))


def test_trained_model_has_full_lists(tmp_path: Path) -> None:
    adapter = load_model(shared_model("stories260K-hf"))
    measure(adapter, calibration(adapter), tmp_path, shard=Shard("f"))
    found = rows(tmp_path)
    # 4 layers have something below them and 4 something above, 172 neurons, 10 of each sign
    assert len(found) == 2 * 4 * 172 * 20
    assert sum(r["direction"] == "downstream" for r in found) == 4 * 172 * 20
