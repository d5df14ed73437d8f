"""Wiring: the definition against autograd, the lists against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import FAMILIES, shared_model, tiny_gemma2, tiny_gpt2, tiny_llama, tiny_olmo2, tokens
from torch import Tensor, nn

from atlas.errors import InputError, ModelError
from atlas.measure.wiring import Calibration, measure, read_calibration
from atlas.models.adapter import Adapter, load_model, weight
from atlas.models.norm import norm_of
from atlas.models.ranking import largest
from atlas.models.tensors import in_files, in_memory
from atlas.shards import Shard, new_shard, shard_files
from atlas.tables import SHARDS

SOURCE, TARGET, POSITION = 0, 2, 4  # of the identity: layers and a token


def rows(root: Path) -> list[dict]:
    return pa.concat_tables(pq.read_table(p) for p in shard_files(root, "wiring")).to_pylist()


def calibration(adapter: Adapter, seed: int = 3) -> Calibration:
    rng, shape = np.random.default_rng(seed), (adapter.spec.layers, adapter.spec.d_mlp)
    behind = adapter.spec.norm_placement != "pre"
    return Calibration(
        rng.normal(size=shape) if adapter.spec.gated else None,
        rng.normal(size=shape),
        rng.uniform(0.5, 2, size=shape[0]) if behind else None,
    )


def gain(adapter: Adapter, module: nn.Module | None) -> np.ndarray:
    """The gain from the stored weight and the family, not from atlas.models.norm."""
    if module is None:
        return np.ones(adapter.spec.d_model)
    stored = module.weight.numpy()
    return 1 + stored if "Gemma" in type(module).__name__ else stored


def columns(adapter: Adapter, source: int, target: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Brute force from the definition: c_up, c_gate and raw lab strength, [target neuron, source neuron]."""
    block, writes = adapter.blocks[target], weight(adapter.blocks[source].down).numpy()
    folded = gain(adapter, adapter.blocks[source].mlp_out_norm)[:, None] * writes
    reading = gain(adapter, block.mlp_norm)
    up = weight(block.up).numpy()
    if block.gate is None:
        read = up * reading
        return (read - read.mean(1, keepdims=True)) @ folded, None, None
    gate = weight(block.gate).numpy()
    return (up * reading) @ folded, (gate * reading) @ folded, common(up @ writes, gate @ writes)


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
                    strength *= 1 if means is None or means.out_mean is None else means.out_mean[source]
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


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_olmo2, tiny_gemma2])
@pytest.mark.parametrize("calibrated", [True, False])
def test_lists_equal_brute_force(make, calibrated: bool, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    adapter = make(layers=4)
    means = calibration(adapter) if calibrated else None
    measure(in_memory(adapter), means, tmp_path, shard=Shard("f"), top=5)
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
    measure(in_memory(adapter), calibration(adapter), tmp_path / "one", shard=Shard("f"), top=4)
    for index in range(3):
        measure(in_memory(adapter), calibration(adapter), tmp_path / "many", shard=Shard("f", index, 3), top=4)
    assert rows(tmp_path / "many") == rows(tmp_path / "one")
    monkeypatch.setattr("atlas.measure.wiring._FEWEST", 3)
    monkeypatch.setattr("atlas.measure.wiring.PIECE", {"cpu": 1})
    monkeypatch.setattr("atlas.measure.wiring._STEP", 5)
    monkeypatch.setattr("atlas.measure.wiring.GROUP", 2)
    measure(in_memory(adapter), calibration(adapter), tmp_path / "pieces", shard=Shard("f"), top=4)
    ids = ("layer", "neuron", "direction", "polarity", "rank", "other_layer", "other_neuron")
    pieces, whole = rows(tmp_path / "pieces"), rows(tmp_path / "one")
    assert [[r[i] for i in ids] for r in pieces] == [[r[i] for i in ids] for r in whole]


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_threads_change_no_bit(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("atlas.measure.wiring._FEWEST", 16)
    monkeypatch.setattr("atlas.measure.wiring.PIECE", {"cpu": 1})
    adapter, before = make(torch.float32, layers=4, d_mlp=80), torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            measure(in_memory(adapter), None, tmp_path / str(threads), shard=Shard("f"))
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
    measure(in_memory(adapter), None, tmp_path, shard=Shard("f"), top=3)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_are_the_local_effect(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention blocked, norms frozen, activations as leaves: dh_n/dh_m = r_t r_s (u act'(g) c_gate + act(g) c_up).

    r_t belongs to the norm before the target's MLP, r_s to the one behind the source's; 1 where there is none.
    """
    adapter = FAMILIES[family]()
    seen = _blocked_run(adapter, tokens(6), monkeypatch)
    effects = _effects(seen)
    error = effects[0, POSITION] - _formula(adapter, seen, columns(adapter, SOURCE, TARGET)[:2])
    assert error.abs().max() < 1e-12 * effects.abs().max()
    elsewhere = [p for p in range(6) if p != POSITION]
    assert (effects[0, elsewhere] == 0).all() and (effects[0, POSITION].abs().amax(1) > 0).all()


@pytest.mark.parametrize("family", ["olmo2", "olmo3", "gemma2"])
def test_the_gain_behind_the_source_matters(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the gain of the source's out-norm the identity fails."""
    adapter = FAMILIES[family]()
    seen = _blocked_run(adapter, tokens(6), monkeypatch)
    effects = _effects(seen)
    forgotten = torch.from_numpy(1 / gain(adapter, adapter.blocks[SOURCE].mlp_out_norm))
    adapter.blocks[SOURCE].down.weight.mul_(forgotten[:, None])  # columns() multiplies it back: gain 1 in effect
    error = effects[0, POSITION] - _formula(adapter, seen, columns(adapter, SOURCE, TARGET)[:2])
    assert error.abs().max() > 0.1 * effects.abs().max()


def _effects(seen: dict[str, dict]) -> Tensor:
    """Autograd's dh_n/dh_m at POSITION: [1, positions, target neuron, source neuron]."""
    made, leaf = seen["made"][TARGET], seen["leaf"][SOURCE]
    found = [torch.autograd.grad(h, leaf, retain_graph=True)[0] for h in made[0, POSITION]]
    return torch.stack(found, dim=2)


def _formula(adapter: Adapter, seen: dict[str, dict], c) -> Tensor:  # type: ignore[no-untyped-def]
    """r_t r_s (u act'(g) c_gate + act(g) c_up) or r_t act'(z) c, [target neuron, source neuron]."""
    places = [("mlp_norm", TARGET), ("mlp_out_norm", SOURCE)]
    factors = [seen["factor"][place][0, POSITION] for place in places if place in seen["factor"]]
    return torch.stack(factors).prod() * _local_effect(adapter.blocks[TARGET], seen, POSITION, c)


def _local_effect(block, seen, position: int, c) -> Tensor:  # type: ignore[no-untyped-def]
    """u act'(g) c_gate + act(g) c_up (or act'(z) c) of every target and source neuron, [N, N]."""
    c_up, c_gate = (None if x is None else torch.from_numpy(x) for x in c)
    x = seen["x"][block.index].detach()[0, position]
    up = block.up(x)
    if block.gate is None:
        return _slope(block.act, up)[:, None] * c_up
    gate = block.gate(x)
    return (up * _slope(block.act, gate))[:, None] * c_gate + block.act(gate)[:, None] * c_up


def _slope(act, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(act(x).sum(), x)[0]


def _blocked_run(adapter: Adapter, ids: list[int], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """The real modules with hooks of the test's own: nothing of atlas.models.replacement."""
    seen: dict[str, dict] = {"x": {}, "made": {}, "leaf": {}, "factor": {}}

    def cut(index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            seen["made"][index] = args[0]
            seen["leaf"][index] = args[0].detach().requires_grad_(True)
            return (seen["leaf"][index],)

        return hook

    def frozen(module: nn.Module, place: tuple[str, int]):  # type: ignore[no-untyped-def]
        norm = norm_of(module)

        def forward(x: Tensor) -> Tensor:
            seen["factor"][place] = norm.factor(x).detach()
            return norm.apply(x, seen["factor"][place])

        return forward

    for block in adapter.blocks:
        block.attention.register_forward_hook(lambda _m, _a, out: (out[0].detach(), *out[1:]))
        block.mlp.register_forward_pre_hook(lambda _m, args, index=block.index: seen["x"].update({index: args[0]}))
        block.down.register_forward_pre_hook(cut(block.index))
        for role in ("mlp_norm", "mlp_out_norm"):
            module = getattr(block, role)
            if module is not None:
                monkeypatch.setattr(module, "forward", frozen(module, (role, block.index)), raising=False)
    adapter.model(torch.tensor([ids]), use_cache=False)
    return seen


def test_calibration_is_the_mean_over_shards(tmp_path: Path) -> None:
    for index in range(2):
        with new_shard(tmp_path, Shard("f", index, 2)) as draft:
            table = SHARDS["neuron_stats"].empty_table()
            base = dict.fromkeys(table.column_names)
            found = [
                {**base, "layer": k // 3, "neuron": k % 3, "n_tokens": 10 + index,
                 "calib_gate": float(k), "calib_up": 2.0 * k, "calib_out": 5.0 + k // 3}
                for k in range(6)
            ]  # fmt: skip
            draft.write("neuron_stats", pa.Table.from_pylist(found, schema=SHARDS["neuron_stats"]))
    means = read_calibration(tmp_path)
    assert means.gate_mean is not None
    assert means.gate_mean[1, 2] == pytest.approx(10 / 21)
    assert means.up_mean[1, 0] == pytest.approx(12 / 21)
    assert means.out_mean is not None
    assert means.out_mean.tolist() == pytest.approx([10 / 21, 12 / 21])
    with pytest.raises(InputError, match="calibration is for"):
        measure(in_memory(tiny_llama()), means, tmp_path / "w", shard=Shard("f"))


def test_bad_weights_are_named(tmp_path: Path) -> None:
    adapter = tiny_llama()
    adapter.blocks[2].gate.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="layer 2"):
        measure(in_memory(adapter), None, tmp_path, shard=Shard("f"))


def test_trained_model_has_full_lists(tmp_path: Path) -> None:
    adapter = load_model(shared_model("stories260K-hf"))
    measure(in_memory(adapter), calibration(adapter), tmp_path, shard=Shard("f"))
    found = rows(tmp_path)
    # 4 layers have something below them and 4 something above, 172 neurons, 10 of each sign
    assert len(found) == 2 * 4 * 172 * 20
    assert sum(r["direction"] == "downstream" for r in found) == 4 * 172 * 20


@pytest.mark.parametrize("family", FAMILIES)
def test_files_give_what_the_model_in_memory_gives(family: str, tmp_path: Path) -> None:
    adapter = FAMILIES[family](torch.float32)
    adapter.model.save_pretrained(tmp_path / "model")
    means = calibration(adapter)
    measure(in_memory(adapter), means, tmp_path / "memory", shard=Shard("f"), top=3)
    measure(in_files(tmp_path / "model"), means, tmp_path / "files", shard=Shard("f"), top=3)
    assert rows(tmp_path / "files") == rows(tmp_path / "memory") != []


def test_calibration_of_another_kind_of_norm_is_refused(tmp_path: Path) -> None:
    adapter = tiny_olmo2()
    means = calibration(tiny_llama())
    with pytest.raises(InputError, match="has a norm behind its MLPs"):
        measure(in_memory(adapter), means, tmp_path, shard=Shard("f"))
