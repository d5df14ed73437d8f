-- The strongest edges inside a module, labels of both ends joined.
-- of_path: its path, for example '158.4'. max_rows: limit; NULL for all.
-- sign_consistency as in edges_from. Ordered by the sum of |F|.
-- Try: FROM cluster_edges('1', max_rows := 5)
CREATE OR REPLACE MACRO cluster_edges(of_path, max_rows := 20) AS TABLE
WITH members AS MATERIALIZED (
    SELECT feature_id::INTEGER AS id FROM neurons WHERE cluster_path = of_path OR starts_with(cluster_path, of_path || '.')
), chosen AS MATERIALIZED (
    SELECT e.src, e.tgt, e.src_layer, e.src_neuron, e.tgt_layer, e.tgt_neuron, e.count, e.n_graphs, e.mean_weight,
        e.mean_abs_weight, e.weight_sum, e.weight_abs_sum, e.weight_sq_sum
    FROM edges AS e
    SEMI JOIN members AS s ON e.src = s.id
    SEMI JOIN members AS t ON e.tgt = t.id
    ORDER BY e.weight_abs_sum DESC, e.src, e.tgt
    LIMIT max_rows
), about AS MATERIALIZED (  -- labels of both ends, looked up once
    SELECT feature_id, label, cluster_path FROM neurons
    WHERE feature_id IN (SELECT src FROM chosen UNION SELECT tgt FROM chosen)
)
SELECT
    e.src_layer, e.src_neuron, a.label AS src_label, a.cluster_path AS src_cluster,
    e.tgt_layer, e.tgt_neuron, b.label AS tgt_label, b.cluster_path AS tgt_cluster,
    e.count, e.n_graphs, e.mean_weight, e.mean_abs_weight,
    CASE WHEN e.weight_sq_sum IS NOT NULL THEN abs(e.weight_sum::DOUBLE) / nullif(e.weight_abs_sum, 0) END AS sign_consistency,
    e.weight_sum, e.weight_abs_sum, e.src, e.tgt
FROM chosen AS e
LEFT JOIN about AS a ON a.feature_id = e.src
LEFT JOIN about AS b ON b.feature_id = e.tgt
ORDER BY e.weight_abs_sum DESC, e.src, e.tgt;
