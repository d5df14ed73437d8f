"""A neuron's card -> text for a terminal or a notebook: names, what fires it, what it writes, its circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.query.neurons import Card

_BARS = " ▁▂▃▄▅▆▇█"
Row = dict[str, Any]


def card_text(card: Card) -> str:
    """The whole card; sections without rows are left out."""
    sections = [
        _head(card.id, card.about),
        _section("Labels", card.labels.rows(), _label),
        _activity(card.about),
        *(_signed("Fires on", card.top_tokens.rows(), _token, sign) for sign in (1, -1)),
        *(_signed("Texts", card.exemplars.rows(), _text, sign) for sign in (1, -1)),
        _reads(card.read_tokens.rows()),
        _lens(card.logit_lens.rows()),
        _section(f"Edges in ({card.about['n_edges_in']})", card.edges_in.rows(), lambda r: _edge(r, "<-")),
        _section(f"Edges out ({card.about['n_edges_out']})", card.edges_out.rows(), lambda r: _edge(r, "->")),
        _section("Wiring (weights only, no attention path)", card.wiring.rows(), _wire),
        _section("Pruning", card.pruning.rows(), _prune),
        _section("Impact of removing it", card.impacts.rows(), _impact),
    ]
    return "\n\n".join(section for section in sections if section)


def number(value: object) -> str:
    """A number with four significant digits; a dash for NULL.

    >>> number(0.123456), number(1234567), number(None)
    ('0.1235', '1234567', '-')
    """
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def visible(token: object) -> str:
    """A token in quotes with line ends and tabs escaped."""
    text = "?" if token is None else str(token)
    return "'" + text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"


def _head(name: object, about: Row) -> str:
    lines = [f"{name}  {about['label'] or '(no label)'}"]
    named = [("in", "input_label"), ("out", "output_label"), ("why", "description")]
    lines += [f"  {short:<4} {about[column]}" for short, column in named if about[column]]
    if about["cluster_path"]:
        size = f", {about['cluster_size']} neurons" if about["cluster_size"] else ""
        lines.append(f"  module {about['cluster_path']} ({about['cluster_label'] or 'no name'}{size})")
    facts = [
        ("max |a|", "max_activation"), ("exemplars", "num_exemplars"), ("graphs", "appearance_count"),
        ("output norm", "output_norm"), ("flow", "infomap_flow"),
    ]  # fmt: skip
    lines.append("  " + ", ".join(f"{title} {number(about[c])}" for title, c in facts if about[c] is not None))
    return "\n".join(line for line in lines if line.strip())


def _activity(about: Row) -> str:
    if about["n_tokens"] is None:
        return ""
    shares = ", ".join(
        f"{title} {about[c]:.3%}" for title, c in
        [("active (a > 0)", "density"), ("strong +", "fired_pos"), ("strong -", "fired_neg")] if about[c] is not None
    )  # fmt: skip
    moments = ", ".join(
        f"{title} {number(about[c])}" for title, c in
        [("mean", "mean"), ("std", "std"), ("skew", "skewness"), ("excess kurtosis", "excess_kurtosis")]
    )  # fmt: skip
    lines = [f"Activation over {about['n_tokens']} positions", f"  {shares}", f"  {moments}"]
    if about["hist"]:
        low, high = number(about["hist_lo"]), number(about["hist_hi"])
        lines.append(f"  {low} |{_bars(about['hist'][1:-1])}| {high}  (log counts)")
    return "\n".join(lines)


def _bars(counts: list[int]) -> str:
    top = max(counts, default=0).bit_length() or 1
    return "".join(_BARS[min(8, -(-c.bit_length() * 8 // top))] for c in counts)


def _section(title: str, rows: list[Row], line: Any) -> str:
    return "\n".join([title, *(f"  {line(row)}" for row in rows)]) if rows else ""


def _signed(title: str, rows: list[Row], line: Any, sign: int) -> str:
    return _section(f"{title} ({'+' if sign > 0 else '-'})", [r for r in rows if r["polarity"] == sign], line)


def _label(row: Row) -> str:
    sign = {1: " (+)", -1: " (-)"}.get(row["polarity"], "")
    score = f", score {number(row['score'])}" if row["score"] is not None else ""
    return f"{row['pass']}{sign}: {row['label'] or '-'}  [{row['source']}, {row['status']}{score}]"


def _token(row: Row) -> str:
    share = "" if row["share"] is None else f"  {row['share']:.1%} of its firings"
    lift = "" if row["lift"] is None else f", {row['lift']:.1f}x"
    return (
        f"{visible(row['token']):<16} n {row['n']}{share}{lift}, mean {number(row['mean'])}, peak {number(row['peak'])}"
    )


def _text(row: Row) -> str:
    text = (row["context_text"] or "(no text)").replace("\n", "\\n")
    return f"{row['activation']:>8.3g}  {text}"


def _reads(rows: list[Row]) -> str:
    found = [(f"{part} {'+' if sign > 0 else '-'}", [r for r in rows if (r["part"], r["polarity"]) == (part, sign)])
             for part, sign in (("gate", 1), ("up", 1), ("up", -1))]  # fmt: skip
    lines = [_tokens(title, listed) for title, listed in found if listed]
    return "\n".join(["Reads (weights only: pre-activation by a token's embedding alone)", *lines]) if rows else ""


def _lens(rows: list[Row]) -> str:
    titles = [(1, "promotes"), (-1, "suppresses")]
    lines = [_tokens(title, [r for r in rows if r["polarity"] == sign]) for sign, title in titles]
    return "\n".join(["Logit lens", *lines]) if rows else ""


def _tokens(title: str, rows: list[Row]) -> str:
    return f"  {title:<10} " + "  ".join(f"{visible(r['token'])} {r['value']:+.3g}" for r in rows)


def _edge(row: Row, arrow: str) -> str:
    error = f" ± {row['standard_error']:.2g}" if row["standard_error"] is not None else ""
    share = "" if row["share"] is None else f", {row['share']:.1%}"
    weight = "-" if row["mean_weight"] is None else f"{row['mean_weight']:+.3g}"
    evidence = f"(n {row['count']}{share}, one sign {number(row['sign_consistency'])})"
    return f"{arrow} {_other(row):<12} {weight}{error}  {evidence}  {row['label'] or ''}"


def _wire(row: Row) -> str:
    arrow = "->" if row["direction"] == "downstream" else "<-"
    return f"{arrow} {_other(row):<12} {row['strength']:+.3g}  {row['label'] or ''}"


def _other(row: Row) -> str:
    return f"L{row['layer']}/N{row['neuron']}"


def _prune(row: Row) -> str:
    verdict = "candidate" if row["is_pruning_candidate"] else "no candidate"
    return (
        f"score {number(row['pruning_score'])} ({row['score_method']}, {verdict} at 10 %), "
        f"weight rank {row['weight_rank']}, mean |w| {number(row['weight_magnitude'])}"
    )


def _impact(row: Row) -> str:
    verdict = {True: "safe", False: "not safe"}.get(row["safe_to_prune"], f"no verdict: {row['reason']}")
    limits = f" ({number(row['kl_low'])} to {number(row['kl_high'])})" if row["kl_high"] is not None else ""
    return (
        f"{row['evidence']} on {row['tokens']} tokens: impact score {number(row['impact_score'])} ({verdict}), "
        f"KL {number(row['kl'])}{limits} nats, loss {number(row['delta_nll'])}, "
        f"share of top tokens that change {number(row['top1_flip_rate'])}"
    )
