-- The strongest edges out of one neuron, with the targets' labels and the evidence for each edge.
-- of_layer, of_neuron: the source. max_rows: limit; NULL for all.
-- share = part of the neuron's outgoing sum of |F|; standard_error = sqrt(sample variance / count), NULL for a single
-- observation; sign_consistency = |sum F| / sum |F|, 1 when every observation has one sign; both NULL for
-- derived edges, whose squares are not known.
-- Ordered by the sum of |F| (weight_abs_sum).
-- The share's sum is taken in whole units of 1e-18, so it does not depend on threads. The strongest are chosen before the
-- labels are joined: that join reads most row groups of neurons and is most of the time among millions of neurons.
-- Try: FROM edges_from(1, 2, max_rows := 5)
CREATE OR REPLACE MACRO edges_from(of_layer, of_neuron, max_rows := 20) AS TABLE
WITH chosen AS (
    SELECT
        tgt, tgt_layer, tgt_neuron, count, n_graphs, weight_sum::DOUBLE / count AS mean, weight_sum, weight_abs_sum, weight_sq_sum,
        weight_min, weight_max,
        weight_abs_sum / nullif(sum(weight_abs_sum::DOUBLE::DECIMAL(38, 18)) OVER (), 0) AS share
    FROM edges WHERE src_layer = of_layer AND src_neuron = of_neuron
    ORDER BY weight_abs_sum DESC, tgt
    LIMIT max_rows
)
SELECT
    e.tgt_layer AS layer, e.tgt_neuron AS neuron, n.label, n.cluster_path, e.count, e.n_graphs,
    e.mean AS mean_weight, e.weight_abs_sum::DOUBLE / e.count AS mean_abs_weight, e.share,
    CASE WHEN e.weight_sq_sum IS NOT NULL
        THEN sqrt(greatest(e.weight_sq_sum - e.mean * e.weight_sum, 0) / nullif(e.count - 1, 0) / e.count) END AS standard_error,
    CASE WHEN e.weight_sq_sum IS NOT NULL THEN abs(e.weight_sum::DOUBLE) / nullif(e.weight_abs_sum, 0) END AS sign_consistency,
    e.weight_sum, e.weight_abs_sum, e.weight_min, e.weight_max
FROM chosen AS e
LEFT JOIN neurons AS n ON n.feature_id = e.tgt
ORDER BY e.weight_abs_sum DESC, e.tgt;
