-- Edges between two sets of neurons, labels and modules of both ends joined.
-- of_sources, of_targets: packed ids; NULL for any neuron. at_least_weight: smallest mean |F|.
-- at_least_count: fewest observations. max_rows: limit; NULL for all.
-- Without sources, those of the targets are looked up in edges_in; without both, all edges are read.
-- standard_error and sign_consistency as in edges_from. Ordered by the sum of |F|.
-- Try: FROM edges_between([0, 1, 2], NULL, at_least_count := 2, max_rows := 5)
CREATE OR REPLACE MACRO edges_between(
    of_sources, of_targets, at_least_weight := 0, at_least_count := 1, max_rows := 50
) AS TABLE
WITH chosen AS MATERIALIZED (
    SELECT
        src, tgt, src_layer, src_neuron, tgt_layer, tgt_neuron, count, n_graphs, weight_sum::DOUBLE / count AS mean,
        weight_sum, weight_abs_sum, weight_abs_sum::DOUBLE / count AS mean_abs, weight_sq_sum, weight_min, weight_max
    FROM edges
    WHERE (of_targets IS NULL OR tgt IN (SELECT unnest(of_targets)::INTEGER))
        AND (of_sources IS NULL AND of_targets IS NULL OR src IN (SELECT unnest(coalesce(of_sources::INTEGER[], (
            SELECT list(src) FROM edges_in WHERE of_sources IS NULL AND tgt IN (SELECT unnest(of_targets)::INTEGER)
        )))))
        AND count >= at_least_count AND mean_abs >= at_least_weight
    ORDER BY weight_abs_sum DESC, src, tgt
    LIMIT max_rows
), about AS MATERIALIZED (  -- labels of both ends, looked up once
    SELECT feature_id, label, cluster_path FROM neurons
    WHERE feature_id IN (SELECT src FROM chosen UNION SELECT tgt FROM chosen)
)
SELECT
    e.src_layer, e.src_neuron, a.label AS src_label, a.cluster_path AS src_cluster,
    e.tgt_layer, e.tgt_neuron, b.label AS tgt_label, b.cluster_path AS tgt_cluster,
    e.count, e.n_graphs, e.mean AS mean_weight, e.mean_abs AS mean_abs_weight,
    CASE WHEN e.weight_sq_sum IS NOT NULL
        THEN sqrt(greatest(e.weight_sq_sum - e.mean * e.weight_sum, 0) / nullif(e.count - 1, 0) / e.count) END AS standard_error,
    CASE WHEN e.weight_sq_sum IS NOT NULL THEN abs(e.weight_sum::DOUBLE) / nullif(e.weight_abs_sum, 0) END AS sign_consistency,
    e.weight_sum, e.weight_abs_sum, e.weight_min, e.weight_max, e.src, e.tgt
FROM chosen AS e
LEFT JOIN about AS a ON a.feature_id = e.src
LEFT JOIN about AS b ON b.feature_id = e.tgt
ORDER BY e.weight_abs_sum DESC, e.src, e.tgt;
