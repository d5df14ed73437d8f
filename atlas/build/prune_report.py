"""The report of a pruned model -> lines for a person, and the model card of its folder."""

from __future__ import annotations

from typing import Any

Report = dict[str, Any]


def lines(report: Report) -> dict[str, str]:
    """What was done and what it cost, by name."""
    told = {
        "model": f"{report['model']}, revision {report['revision']}",
        "neurons": _neurons(report),
        "chosen": report["chosen"] + (f" (eval_id {report['eval_id']})" if report["eval_id"] else ""),
        "form": _form(report),
        "mean output": _compensation(report["compensation"]),
        "parameters": _change(report["parameters"]),
        "bytes": _change(report["bytes"]),
    }
    return told | _cost(report["held_out"])


def card(report: Report, license_line: str | None) -> str:
    """README.md of the folder: how it was made, what it costs, what is in the folder."""
    head = ["---", "library_name: transformers", *([license_line] if license_line else []), "tags: [pruned]", "---"]
    rows = [f"| {name} | {text} |" for name, text in lines(report).items()]
    by_layer = [f"| {one['layer_index']} | {one['removed']} | {one['kept']} |" for one in report["layers"]]
    return "\n".join(
        [
            *head, "", f"# {report['model']} without {report['neurons_removed']:,} of its MLP neurons", "",
            "Made by `atlas prune apply` from the model named below. Load it as any other model:", "",
            "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")', "```", "",
            "| | |", "|---|---|", *rows, "",
            "Loss is in nats per predicted token. Intervals are each limit by itself 95%, from a bootstrap over "
            "documents. The text was none that the neurons were chosen on.", "",
            "`pruning_report.json` holds all of this and the neurons of each layer, `kept_neurons.json` the old index "
            "of every neuron that is left (`kept[layer][new index]`).", "",
            "| layer | removed | kept |", "|---|---|---|", *by_layer, "",
        ]
    )  # fmt: skip


def _neurons(report: Report) -> str:
    gone, there, counts = report["neurons_removed"], report["neurons_before"], [r["removed"] for r in report["layers"]]
    each = f"{counts[0]:,} of each layer" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,} of a layer"
    return f"{gone:,} of {there:,} removed ({gone / there:.1%}), {each}"


def _form(report: Report) -> str:
    before, after = report["d_mlp"]
    if report["form"] == "smaller":
        return f"smaller: {before:,} -> {after:,} neurons a layer"
    return (
        "masked: layers lose unequal numbers, so the removed neurons' columns are 0 and the files as large as before "
        "(--equalise or --per-layer N make them smaller)"
    )


def _compensation(found: dict[str, Any]) -> str:
    if found["applied"] == "none":
        return f"not put in place of the neurons: {found['why_not']}"
    place = "the bias of the down projection" + (" (added: mlp_bias)" if found["applied"] == "added" else "")
    return f"in {place}, to {found['rounding']:.1e} of itself by rounding"


def _change(pair: list[int]) -> str:
    before, after = pair
    return f"{before:,} -> {after:,} ({(after - before) / before:+.1%})"


def _cost(found: dict[str, Any] | None) -> dict[str, str]:
    if found is None:
        return {"loss": "not measured: no held-out text was given"}
    flips = f"the most likely token changes at {found['top1_flip_rate']:.2%} of positions"
    notes = "; ".join(found["notes"])
    return {
        "held-out": f"{found['tokens']:,} tokens of {found['documents']:,} documents" + (f"; {notes}" if notes else ""),
        "loss": f"{found['loss'][0]:.5f} -> {found['loss'][1]:.5f} nats/token, {_interval(found, 'delta_nll', '+.3g')}",
        "perplexity": f"{found['perplexity'][0]:.4f} -> {found['perplexity'][1]:.4f}",
        "KL": f"{_interval(found, 'kl', '.3g')}; {flips}",
        "verdict": _verdict(found),
    }


def _interval(found: dict[str, Any], name: str, form: str) -> str:
    low, high = found[f"{name}_low"], found[f"{name}_high"]
    limits = "no interval" if low is None else f"{low:{form}} to {high:{form}}"
    return f"{found[name]:{form}} ({limits})"


def _verdict(found: dict[str, Any]) -> str:
    if found["safe_to_prune"] is None:
        return f"none: {found['reason']}"
    budget = f"the budget of {found['budget']:g} nats/token"
    if found["safe_to_prune"]:
        return f"KL is under {budget} with 95% confidence (impact_score {found['impact_score']:.2g})"
    return f"KL may be over {budget} (impact_score {found['impact_score']:.2g}, safe is under 0.1)"
