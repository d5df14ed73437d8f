"""Tables of an atlas -> the values of NeuronScope's JSON files.

A module's integer `cluster_id` is the rank, from 0, of its path among all module paths of the atlas (every level, in
the order of their numbers: 1, 1.1, 1.2, 2, 10). The same module has the same id in every file of an export.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

from atlas.export.seed_forms import Cluster, LayerClusters, TokenQuery

_PATHS = """
    SELECT DISTINCT array_to_string(parts[1:level], '.') AS path
    FROM (SELECT DISTINCT string_split(cluster_path, '.') AS parts FROM neurons WHERE cluster_path IS NOT NULL),
        unnest(range(1, len(parts) + 1)) AS l(level)
    ORDER BY list_transform(string_split(path, '.'), lambda x: try_cast(x AS BIGINT)), path"""
_MEMBERS = """
    SELECT cluster_path, list(neuron ORDER BY neuron) FROM neurons
    WHERE layer = $1 AND cluster_path IS NOT NULL GROUP BY cluster_path"""
_NEURON_TOKENS = """
    SELECT coalesce(v.token, '<token ' || t.token_id || '>'), t.sum / t.n AS mean
    FROM token_stats AS t LEFT JOIN vocab AS v ON v.token_id = t.token_id
    WHERE t.layer = $layer AND t.neuron = $neuron AND t.polarity = $polarity
    ORDER BY $polarity * mean DESC, t.token_id LIMIT $tokens"""
_CLUSTER_TOKENS = """
    WITH members AS (
        SELECT layer, neuron FROM neurons WHERE cluster_path = $path OR starts_with(cluster_path, $path || '.')
    ), fired AS (
        SELECT token_id, sum(sum) / sum(n) AS mean FROM token_stats SEMI JOIN members USING (layer, neuron)
        WHERE polarity = $polarity GROUP BY token_id
    )
    SELECT coalesce(v.token, '<token ' || f.token_id || '>'), f.mean
    FROM fired AS f LEFT JOIN vocab AS v ON v.token_id = f.token_id
    ORDER BY $polarity * f.mean DESC, f.token_id LIMIT $tokens"""
_PROMPTS = """
    SELECT prompt FROM graphs WHERE prompt IS NOT NULL GROUP BY prompt
    ORDER BY min(graph_id) NULLS LAST, prompt LIMIT $1"""
# A token that was never counted and looks like <s> is BOS or another mark of the tokenizer, not part of the text.
_SPACED = "SELECT count(*) > 0 FROM vocab WHERE token LIKE ' _%'"
_CONTEXTS = """
    WITH chosen AS (SELECT context_id, token_ids FROM contexts ORDER BY context_id LIMIT $1),
    placed AS (SELECT context_id, unnest(token_ids) AS token_id, generate_subscripts(token_ids, 1) AS place FROM chosen)
    SELECT array_to_string(list(v.token ORDER BY p.place), $2)
    FROM placed AS p JOIN vocab AS v ON v.token_id = p.token_id
    WHERE NOT (v."count" = 0 AND v.token LIKE '<%>') GROUP BY p.context_id ORDER BY p.context_id"""
_STRONGEST = """
    SELECT layer, neuron FROM neurons SEMI JOIN token_stats USING (layer, neuron)
    ORDER BY max_activation DESC NULLS LAST, layer, neuron"""
_LARGEST = """
    SELECT array_to_string(parts[1:level], '.') AS path
    FROM (SELECT string_split(cluster_path, '.') AS parts FROM neurons WHERE cluster_path IS NOT NULL),
        unnest(range(1, len(parts) + 1)) AS l(level)
    GROUP BY path ORDER BY count(*) DESC, path"""

Connection = duckdb.DuckDBPyConnection


def cluster_ids(con: Connection) -> dict[str, int]:
    """Map module path -> cluster_id, for every level."""
    return {path: rank for rank, (path,) in enumerate(con.execute(_PATHS).fetchall())}


def layer_clusters(con: Connection, ids: dict[str, int]) -> Iterator[LayerClusters]:
    """Read the finest modules of the primary clustering, layer by layer; neurons outside every module are in none."""
    layers = con.execute("SELECT DISTINCT layer FROM neurons ORDER BY layer").fetchall()
    for (layer,) in layers:
        members = sorted((ids[path], tuple(found), path) for path, found in con.execute(_MEMBERS, [layer]).fetchall())
        yield LayerClusters(layer, tuple(Cluster(*member) for member in members))


def neuron_query(con: Connection, layer: int, neuron: int, *, tokens: int) -> TokenQuery:
    """Read the tokens that fire one neuron: mean activation over its strong firings, at most `tokens` of each sign."""
    place = {"layer": layer, "neuron": neuron, "tokens": tokens}
    positive, negative = (tuple(con.execute(_NEURON_TOKENS, place | {"polarity": sign}).fetchall()) for sign in (1, -1))
    return TokenQuery("neuron", positive, negative, neuron_index=neuron, layer_index=layer)


def cluster_query(con: Connection, path: str, *, cluster_id: int, tokens: int) -> TokenQuery:
    """Do the same for a module and the modules below it, averaged over the firings of all its neurons."""
    place = {"path": path, "tokens": tokens}
    positive, negative = (
        tuple(con.execute(_CLUSTER_TOKENS, place | {"polarity": sign}).fetchall()) for sign in (1, -1)
    )
    return TokenQuery("cluster", positive, negative, cluster_id=cluster_id, cluster_path=path)


def firing_neurons(con: Connection) -> list[tuple[int, int]]:
    """(layer, neuron) of all neurons with token statistics, those with the largest |activation| first."""
    return con.execute(_STRONGEST).fetchall()


def largest_clusters(con: Connection) -> list[str]:
    """All module paths, the largest first."""
    return [path for (path,) in con.execute(_LARGEST).fetchall()]


def sample_prompts(con: Connection, *, limit: int) -> list[str]:
    """Prompts of the attribution graphs in their order; without graphs the first contexts, decoded."""
    found = con.execute(_PROMPTS, [limit]).fetchall()
    if not found:
        # Tokens carry their spaces, but for word-level tokenizers: there no token starts with one.
        between = "" if con.execute(_SPACED).fetchall()[0][0] else " "
        found = con.execute(_CONTEXTS, [limit, between]).fetchall()
    return [text for (text,) in found]
