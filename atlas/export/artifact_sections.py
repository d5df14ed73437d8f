"""Facts about edge stores, packages, reports and shards -> their sections of ARTIFACTS.md, and tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from atlas.export.artifact_folders import FolderFacts, PackageFacts, StoreFacts

_NAMES = {"atlas-neuronpedia": "Neuronpedia package", "atlas-saelens": "SAELens transcoders"}


def folder_sections(found: FolderFacts, made_from: Mapping[str, str]) -> list[list[str]]:
    """The sections that are not empty; made_from: the atlas of each package and report folder, by its name."""
    columns = ("Folder", "Description", "Size")
    parts = (
        ("Edge Stores", [(one.shown, _store(one), one.size) for one in found.stores]),
        ("Packages", [(one.shown, f"{_package(one)}; {made_from[one.shown]}", one.size) for one in found.packages]),
        (
            "Neuron Reports",
            [(one.shown, f"{_reports(one)}; {made_from[one.shown]}", one.size) for one in found.reports],
        ),
        ("Shard Folders", [(one.shown, f"Measured shards: {', '.join(one.steps)}", one.size) for one in found.shards]),
    )
    return [
        [f"## {title}", "", *table(columns, ((f"`{name}`", told, size_text(size)) for name, told, size in rows))]
        for title, rows in parts
        if rows
    ]


def size_text(size: int) -> str:
    """Bytes as people write them: 372 MB, 1.2 GB (powers of 1000).

    >>> size_text(5_400_000_000)
    '5.4 GB'
    """
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= power:
            return f"{size / power:.1f} {unit}"
    return f"{size} B"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; cells are on one line and break nothing."""
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join('---' for _ in columns)}|"]
    return lines + [f"| {' | '.join(_escape(cell) for cell in row)} |" for row in rows]


def _escape(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split())


def counted(value: object, what: str) -> str:
    """How many there are, of a number or a list.

    >>> counted(1, "layer"), counted([5, 6], "layer"), counted(None, "layer")
    ('1 layer', '2 layers', 'unknown layers')
    """
    number = len(value) if isinstance(value, list) else value
    if not isinstance(number, int):
        return f"unknown {what}s"
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def package_name(one: PackageFacts) -> str:
    """What a package is: "Neuronpedia package, bulk layout"."""
    layout = f", {one.about['layout']} layout" if isinstance(one.about.get("layout"), str) else ""
    return _NAMES.get(one.kind, one.kind) + layout


def _store(one: StoreFacts) -> str:
    facts, partials = one.store.facts, one.store.manifest.partials
    graphs = (
        f"{sum(part.graphs for part in partials):,}" if one.store.manifest.counts_graphs else "an unknown number of"
    )
    rows = sum(part.edges for part in partials)
    told = [
        f"**Edge statistics** of `{facts.model}` ({facts.layers} layers × {facts.width:,} {facts.unit_type}), "
        f"`{facts.edge_method}`: {one.store.manifest.observations:,} observations of {graphs} graphs",
        f"{rows:,} edges"
        if one.compact
        else f"{rows:,} rows of edges in {counted(len(partials), 'partial aggregate')}, not compacted",
    ]
    told += [f"half {facts.half} of the graphs"] if facts.half else []
    return ", ".join(told + ([f"{counted(one.left_out, 'file')} left out"] if one.left_out else []))


def _package(one: PackageFacts) -> str:
    counts = one.about.get("counts")
    told = [f"{count:,} {what}" for what, count in counts.items() if count] if isinstance(counts, dict) else []
    if not told:
        told = [counted(one.about.get("features"), "feature"), counted(one.about.get("layers"), "layer")]
    return f"**{package_name(one)}** of `{one.about.get('model', 'unknown model')}`: {', '.join(told)}"


def _reports(one: PackageFacts) -> str:
    listed = one.about["reports"] if isinstance(one.about["reports"], list) else []
    kinds = [entry.get("kind") for entry in listed if isinstance(entry, dict)]
    pages = f"{counted(kinds.count('neuron'), 'neuron')}, {counted(kinds.count('module'), 'module')}"
    return f"**Pages** of `{one.about.get('model', 'unknown model')}`: {pages}"
