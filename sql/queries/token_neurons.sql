-- The neurons that a token's embedding feeds directly, or that write to a token's logit, strongest first.
-- of_token: its text, as in the vocabulary (leading space included). of_kind: 'embedding' or 'logit'. max_rows: limit;
-- NULL for all. mean_weight is signed; share = part of the sum of |F| of this token and kind, cut rows included;
-- standard_error and sign_consistency as in edges_from.
-- Sums of floats are taken as integers of 2^-60, so they do not depend on threads.
-- Try: FROM token_neurons(' dog', of_kind := 'embedding', max_rows := 5)
CREATE OR REPLACE MACRO token_neurons(of_token, of_kind := 'embedding', max_rows := 20) AS TABLE
WITH chosen AS (
    SELECT t.*, v.token,
           t.weight_abs_sum / nullif(sum(round(t.weight_abs_sum::DOUBLE * 1152921504606846976)::HUGEINT) OVER ()
               / 1152921504606846976, 0) AS share
    FROM token_edges AS t JOIN vocab AS v ON v.token_id = t.token_id
    WHERE t.kind = of_kind AND v.token = of_token
    ORDER BY t.weight_abs_sum DESC, t.layer, t.neuron, t.token_id
    LIMIT max_rows
)
SELECT
    c.layer, c.neuron, n.label, n.cluster_path, c.token_id, c.token, c."count", c.n_graphs,
    c.weight_sum::DOUBLE / c."count" AS mean_weight, c.share,
    CASE WHEN c."count" > 1 AND c.weight_sq_sum IS NOT NULL THEN sqrt(greatest(c.weight_sq_sum - c.weight_sum::DOUBLE ** 2 / c."count", 0)
        / (c."count" - 1) / c."count") END AS standard_error,
    CASE WHEN c.weight_sq_sum IS NOT NULL THEN abs(c.weight_sum::DOUBLE) / nullif(c.weight_abs_sum, 0) END AS sign_consistency,
    c.weight_sum, c.weight_abs_sum, c.weight_min, c.weight_max
FROM chosen AS c
LEFT JOIN neurons AS n ON n.layer = c.layer AND n.neuron = c.neuron
ORDER BY c.weight_abs_sum DESC, c.layer, c.neuron, c.token_id;
