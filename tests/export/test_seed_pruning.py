"""The two pruning documents of an atlas: against plain Python over its tables, their schemas, and refusals to mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from seed_schemas import impact_schema, schema_faults, weight_schema
from synthetic import Tables, small_tables, write_atlas

import atlas
from atlas.cli.main import main
from atlas.errors import InputError
from atlas.export.seed_json import SeedPlan, SeedReport, export_seed_json, read_impact_analysis, read_weight_analysis

BUDGET = 0.01


def export(folder: Path, tables: Tables, *eval_ids: str) -> SeedReport:
    write_atlas(folder / "a.duckdb", tables)
    with atlas.open(folder / "a.duckdb") as opened:
        return export_seed_json(opened, folder / "out", plan=SeedPlan(part="pruning", eval_ids=eval_ids))


def impacts(folder: Path) -> dict[str, Any]:
    found = read_impact_analysis(folder / "out" / "pruning" / "impact_analysis.json")
    assert schema_faults(found, impact_schema()) == []
    return found


def other_evaluation(tables: Tables) -> Tables:
    for row in list(tables["impacts"]):
        tables["impacts"].append(row | {"eval_id": "v2", "set_id": f"{row['set_id']}b", "ablation": "zero", "kl": 1.0})
    return tables


def test_only_the_pruning_documents_are_written(tmp_path: Path) -> None:
    report = export(tmp_path, small_tables())
    assert [name for name, _ in report.files] == ["pruning/impact_analysis.json", "pruning/weight_analysis.json"]
    assert report.notes == []
    weights = read_weight_analysis(tmp_path / "out" / "pruning" / "weight_analysis.json")
    assert schema_faults(weights, weight_schema()) == []
    assert weights["sparsity_analysis"]["overall_sparsity"] == 1 / 32
    assert (weights["eval_id"], weights["score_method"]) == ("e1", "fisher")


def test_members_of_a_batch_share_its_budget(tmp_path: Path) -> None:
    tables = small_tables()
    export(tmp_path, tables)
    found, by_set = impacts(tmp_path), {row["set_id"]: row for row in tables["impacts"]}
    batch, members = by_set["s4"], [by_set["s2"], by_set["s1"]]  # least harmful first
    scores = [0.1 * row["kl_high"] / (BUDGET / 2) for row in members]
    assert found["individual_impacts"] == [
        {"layer_index": row["layer"], "neuron_index": row["neuron"], "impact_score": pytest.approx(score),
         "mean_change": row["mean_change"], "max_change": row["max_change"], "safe_to_prune": score < 0.1}
        for row, score in zip(members, scores, strict=True)
    ]  # fmt: skip
    assert [row["safe_to_prune"] for row in found["individual_impacts"]] == [True, False]
    assert found["cumulative_impact"] == {
        "impact_score": pytest.approx(batch["impact_score"]), "mean_change": 0.01, "max_change": 0.1,
    }  # fmt: skip
    assert found["recommendations"] == {
        "safe_to_prune": 1, "risky_to_prune": 1, "suggested_batch_size": 1, "high_impact_neurons": [],
    }  # fmt: skip
    assert (found["eval_id"], found["set_id"], found["joint_over_sum"]) == ("v1", "s4", 2.0)


def test_harmful_members_are_listed_again(tmp_path: Path) -> None:
    tables = small_tables()
    tables["impacts"][0] |= {"kl": 0.02, "kl_high": 0.04, "impact_score": 0.4, "safe_to_prune": False}
    export(tmp_path, tables)
    found = impacts(tmp_path)
    assert found["recommendations"]["high_impact_neurons"] == [found["individual_impacts"][1]]
    assert found["individual_impacts"][1]["impact_score"] == pytest.approx(0.8)


def test_without_a_verdict_nothing_is_guessed(tmp_path: Path) -> None:
    tables = small_tables()
    for row in tables["impacts"]:
        row |= {"safe_to_prune": None, "reason": "fewer than 10,000 tokens"}
    report = export(tmp_path, tables)
    found = impacts(tmp_path)
    assert [row["safe_to_prune"] for row in found["individual_impacts"]] == [None, None]
    advice = found["recommendations"]
    assert [advice[name] for name in ("safe_to_prune", "risky_to_prune", "suggested_batch_size")] == [None] * 3
    assert report.notes == ["pruning/impact_analysis.json has no verdicts: fewer than 10,000 tokens"]
    text = (tmp_path / "out" / "pruning" / "impact_analysis.json").read_text()
    assert '"safe_to_prune": null' in text


def test_members_that_were_not_measured_alone_are_counted(tmp_path: Path) -> None:
    tables = small_tables()
    tables["impacts"] = [row for row in tables["impacts"] if row["set_id"] != "s1"]
    report = export(tmp_path, tables)
    assert [row["neuron_index"] for row in impacts(tmp_path)["individual_impacts"]] == [2]
    assert report.notes == ["pruning/impact_analysis.json: 1 of 2 members were measured alone"]


def test_neurons_measured_alone_make_a_document_without_a_total(tmp_path: Path) -> None:
    tables = small_tables()
    tables["impacts"] = [row for row in tables["impacts"] if row["n_neurons"] == 1]
    tables["impacts"].append(
        tables["impacts"][0] | {"set_id": "s9", "neurons": [3], "neuron": 3, "evidence": "estimated"}
    )
    export(tmp_path, tables)
    found = impacts(tmp_path)
    kls = {(row["layer"], row["neuron"]): row["kl"] for row in tables["impacts"] if row["evidence"] == "measured"}
    places = [(row["layer_index"], row["neuron_index"]) for row in found["individual_impacts"]]
    assert places == sorted(kls, key=lambda place: kls[place])
    assert found["cumulative_impact"] == dict.fromkeys(("impact_score", "mean_change", "max_change"))
    assert found["recommendations"] == {
        "safe_to_prune": 3, "risky_to_prune": 0, "suggested_batch_size": None, "high_impact_neurons": [],
    }  # fmt: skip


def test_impacts_of_two_evaluations_are_never_in_one_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"impacts of 2 evaluations \(mean:0 v1, zero v2\).*choose one with --eval-id"):
        export(tmp_path, other_evaluation(small_tables()))
    assert not (tmp_path / "out").exists()
    with atlas.open(tmp_path / "a.duckdb") as opened:
        export_seed_json(opened, tmp_path / "out", plan=SeedPlan(part="pruning", eval_ids=("v2",)))
    assert (impacts(tmp_path)["eval_id"], impacts(tmp_path)["ablation"]) == ("v2", "zero")


def test_an_unknown_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no evaluation 'v7' in a.duckdb; it holds e1, v1"):
        export(tmp_path, small_tables(), "v7")


def test_scores_of_two_evaluations_need_a_choice(tmp_path: Path) -> None:
    tables = small_tables()
    tables["pruning"] += [row | {"eval_id": "e2"} for row in tables["pruning"]]
    with pytest.raises(InputError, match=r"scores of 2 evaluations \(fisher e1, fisher e2\).*--eval-id"):
        export(tmp_path, tables)
    with atlas.open(tmp_path / "a.duckdb") as opened:
        export_seed_json(opened, tmp_path / "out", plan=SeedPlan(part="pruning", eval_ids=("e2",)))
    found = read_weight_analysis(tmp_path / "out" / "pruning" / "weight_analysis.json")
    assert (found["eval_id"], found["total_candidates"]) == ("e2", 3)  # 1 of 8 in each of 3 layers


def test_an_atlas_without_impacts_says_how_to_measure_them(tmp_path: Path) -> None:
    report = export(tmp_path, small_tables() | {"impacts": []})
    assert [name for name, _ in report.files] == ["pruning/weight_analysis.json"]
    assert report.notes == ['no pruning/impact_analysis.json: no impacts were measured; "atlas prune batch" does']


def test_the_documents_own_example_follows_the_schema_and_is_read(tmp_path: Path) -> None:
    impact = {"layer_index": 0, "neuron_index": 42, "impact_score": 0.023, "mean_change": 0.015, "max_change": 0.089,
              "safe_to_prune": True}  # fmt: skip
    example = {
        "individual_impacts": [impact],
        "cumulative_impact": {"impact_score": 0.156, "mean_change": 0.089, "max_change": 0.234},
        "recommendations": {"safe_to_prune": 15, "risky_to_prune": 3, "suggested_batch_size": 10,
                            "high_impact_neurons": [impact | {"safe_to_prune": False}]},
    }  # fmt: skip
    assert schema_faults(example, impact_schema()) == []
    file = tmp_path / "impact_analysis.json"
    file.write_text(json.dumps(example))
    assert read_impact_analysis(file) == example
    bad = example | {"individual_impacts": [impact | {"safe_to_prune": 1, "new": 2}]}
    assert len(schema_faults(bad, impact_schema())) == 2
    file.write_text(json.dumps(bad))
    with pytest.raises(InputError, match=r"individual_impacts\[0\].safe_to_prune must be true or false"):
        read_impact_analysis(file)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_atlas(tmp_path / "a.duckdb", other_evaluation(small_tables()))
    asked = ["export", "seed-json", "pruning", "--atlas", str(file), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main(asked)
    assert "choose one with --eval-id" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main([*asked, "--eval-id", "v1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0].rsplit("/", 1)[1] for line in lines] == ["impact_analysis.json", "weight_analysis.json"]
    with pytest.raises(SystemExit, match="2"):
        main([*asked, "--neurons", "L0/N1"])
    assert "leave out --prompt, --model, --neurons" in capsys.readouterr().err
