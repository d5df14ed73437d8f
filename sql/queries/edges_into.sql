-- The strongest edges into one neuron, with the sources' labels and the evidence for each edge.
-- of_layer, of_neuron: the target. max_rows: limit; NULL for all.
-- share = part of the neuron's incoming sum of |F|; standard_error = sqrt(sample variance / count), NULL for a single
-- observation; sign_consistency = |sum F| / sum |F|, 1 when every observation has one sign; both NULL for
-- derived edges, whose squares are not known.
-- Ordered by the sum of |F| (weight_abs_sum), as edges_in ranks them: only the edges shown are looked up.
-- Try: FROM edges_into(1, 2, max_rows := 5)
CREATE OR REPLACE MACRO edges_into(of_layer, of_neuron, max_rows := 20) AS TABLE
WITH wanted AS MATERIALIZED (
    SELECT feature_id::INTEGER AS id FROM neurons WHERE layer = of_layer AND neuron = of_neuron
), ranked AS MATERIALIZED (
    SELECT src FROM edges_in WHERE tgt = (FROM wanted) AND rank <= coalesce(max_rows, 2147483647)
), chosen AS (
    SELECT
        src, src_layer, src_neuron, count, n_graphs, weight_sum::DOUBLE / count AS mean, weight_sum,
        weight_abs_sum, weight_sq_sum, weight_min, weight_max,
        weight_abs_sum / nullif((SELECT weight_in FROM edge_totals WHERE id = (FROM wanted)), 0) AS share
    FROM edges WHERE tgt = (FROM wanted) AND src IN (FROM ranked)
)
SELECT
    e.src_layer AS layer, e.src_neuron AS neuron, n.label, n.cluster_path, e.count, e.n_graphs,
    e.mean AS mean_weight, e.weight_abs_sum::DOUBLE / e.count AS mean_abs_weight, e.share,
    CASE WHEN e.weight_sq_sum IS NOT NULL
        THEN sqrt(greatest(e.weight_sq_sum - e.mean * e.weight_sum, 0) / nullif(e.count - 1, 0) / e.count) END AS standard_error,
    CASE WHEN e.weight_sq_sum IS NOT NULL THEN abs(e.weight_sum::DOUBLE) / nullif(e.weight_abs_sum, 0) END AS sign_consistency,
    e.weight_sum, e.weight_abs_sum, e.weight_min, e.weight_max
FROM chosen AS e
LEFT JOIN neurons AS n ON n.feature_id = e.src
ORDER BY e.weight_abs_sum DESC, e.src;
