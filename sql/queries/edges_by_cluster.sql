-- Edges between two sets of neurons, collapsed to the modules of their ends.
-- of_sources, of_targets: packed ids; NULL for any neuron. of_level: 1 = top modules, 2 = their parts ...; NULL = finest.
-- at_least_weight: smallest mean |F| of an edge. at_least_count: fewest observations of an edge. max_rows: limit.
-- src_cluster or tgt_cluster is NULL for neurons outside every module. mean_abs_weight_sum adds the mean |F| of the
-- edges: the unit of clusters.internal_weight. Ordered by weight_abs_sum.
-- Sums of floats are taken as integers of 2^-60, so they do not depend on threads.
-- Try: FROM edges_by_cluster(NULL, NULL, of_level := 1)
CREATE OR REPLACE MACRO edges_by_cluster(
    of_sources, of_targets, of_level := NULL, at_least_weight := 0, at_least_count := 1, max_rows := 50
) AS TABLE
WITH sources AS (
    SELECT feature_id::INTEGER AS id, array_to_string(string_split(cluster_path, '.')[1:coalesce(of_level, 99)], '.') AS module
    FROM neurons WHERE of_sources IS NULL OR feature_id IN (SELECT unnest(of_sources)::BIGINT)
), targets AS (
    SELECT feature_id::INTEGER AS id, array_to_string(string_split(cluster_path, '.')[1:coalesce(of_level, 99)], '.') AS module
    FROM neurons WHERE of_targets IS NULL OR feature_id IN (SELECT unnest(of_targets)::BIGINT)
), grouped AS (
    SELECT
        s.module AS src_cluster, t.module AS tgt_cluster, count(*) AS n_edges, sum(e.count)::BIGINT AS observations,
        sum(round(e.weight_sum::DOUBLE * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS weight_sum,
        sum(round(e.weight_abs_sum::DOUBLE * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS weight_abs_sum,
        sum(round((e.weight_abs_sum::DOUBLE / e.count) * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS mean_abs_weight_sum
    FROM edges AS e
    JOIN sources AS s ON e.src = s.id
    JOIN targets AS t ON e.tgt = t.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum / e.count >= at_least_weight
    GROUP BY s.module, t.module
)
SELECT
    g.src_cluster, a.label AS src_label, g.tgt_cluster, b.label AS tgt_label, g.n_edges, g.observations,
    g.weight_sum / g.observations AS mean_weight, g.mean_abs_weight_sum,
    abs(g.weight_sum) / nullif(g.weight_abs_sum, 0) AS sign_consistency, g.weight_sum, g.weight_abs_sum
FROM grouped AS g
LEFT JOIN clusters AS a ON a.cluster_path = g.src_cluster
LEFT JOIN clusters AS b ON b.cluster_path = g.tgt_cluster
ORDER BY g.weight_abs_sum DESC, g.src_cluster, g.tgt_cluster
LIMIT max_rows;
