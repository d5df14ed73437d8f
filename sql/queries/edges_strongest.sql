-- The strongest edges of the whole atlas by the sum of |F|, from the table edges_top, labels and modules of both ends joined.
-- max_rows: limit; at most as many as edges_top holds (edges_between without sources and targets reads all edges instead).
-- Columns and order of edges_between. The sources are also given as one list: a third of the time of the join alone.
-- Try: FROM edges_strongest(max_rows := 3)
CREATE OR REPLACE MACRO edges_strongest(max_rows := 50) AS TABLE
WITH chosen AS MATERIALIZED (
    SELECT src, tgt FROM edges_top WHERE max_rows IS NULL OR rank <= max_rows
)
SELECT
    e.src_layer, e.src_neuron, a.label AS src_label, a.cluster_path AS src_cluster,
    e.tgt_layer, e.tgt_neuron, b.label AS tgt_label, b.cluster_path AS tgt_cluster,
    e.count, e.n_graphs, e.mean_weight, e.mean_abs_weight,
    CASE WHEN e.weight_sq_sum IS NOT NULL
        THEN sqrt(greatest(e.weight_sq_sum - e.mean_weight * e.weight_sum, 0) / nullif(e.count - 1, 0) / e.count) END AS standard_error,
    CASE WHEN e.weight_sq_sum IS NOT NULL THEN abs(e.weight_sum::DOUBLE) / nullif(e.weight_abs_sum, 0) END AS sign_consistency,
    e.weight_sum, e.weight_abs_sum, e.weight_min, e.weight_max, e.src, e.tgt
FROM (
    SELECT e.* FROM edges AS e JOIN chosen AS c ON c.src = e.src AND c.tgt = e.tgt
    WHERE e.src IN (SELECT unnest((SELECT list(src) FROM chosen)))
) AS e
LEFT JOIN neurons AS a ON a.feature_id = e.src
LEFT JOIN neurons AS b ON b.feature_id = e.tgt
ORDER BY e.weight_abs_sum DESC, e.src, e.tgt;
