-- One neuron's token ends: the embeddings that feed it directly and the logits it writes to, strongest of each first.
-- of_layer, of_neuron: the neuron. max_rows: limit of each kind; NULL for all.
-- mean_weight is signed. share = part of the sum of |F| of the same kind (of all embeddings into the neuron, of all it
-- writes to logits), cut rows included; standard_error and sign_consistency as in edges_from.
-- Sums of floats are taken as integers of 2^-60, so they do not depend on threads.
-- Try: FROM neuron_token_edges(0, 0, max_rows := 3)
CREATE OR REPLACE MACRO neuron_token_edges(of_layer, of_neuron, max_rows := 10) AS TABLE
WITH ranked AS (
    SELECT t.*,
           row_number() OVER (PARTITION BY t.kind ORDER BY t.weight_abs_sum DESC, t.token_id) AS place,
           t.weight_abs_sum / nullif(sum(round(t.weight_abs_sum::DOUBLE * 1152921504606846976)::HUGEINT)
               OVER (PARTITION BY t.kind) / 1152921504606846976, 0) AS share
    FROM token_edges AS t
    WHERE t.layer = of_layer AND t.neuron = of_neuron
)
SELECT
    r.kind, r.token_id, v.token, r."count", r.n_graphs, r.weight_sum::DOUBLE / r."count" AS mean_weight, r.share,
    CASE WHEN r."count" > 1 AND r.weight_sq_sum IS NOT NULL THEN sqrt(greatest(r.weight_sq_sum - r.weight_sum::DOUBLE ** 2 / r."count", 0)
        / (r."count" - 1) / r."count") END AS standard_error,
    CASE WHEN r.weight_sq_sum IS NOT NULL THEN abs(r.weight_sum::DOUBLE) / nullif(r.weight_abs_sum, 0) END AS sign_consistency,
    r.weight_sum, r.weight_abs_sum, r.weight_min, r.weight_max
FROM ranked AS r
LEFT JOIN vocab AS v ON v.token_id = r.token_id
WHERE max_rows IS NULL OR r.place <= max_rows
ORDER BY r.kind, r.weight_abs_sum DESC, r.token_id;
