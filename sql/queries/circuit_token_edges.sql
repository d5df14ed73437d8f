-- The edges at the token ends of a circuit, with their evidence: embeddings that feed neurons, logits neurons write to.
-- of_kind: 'embedding' or 'logit'. of_tokens: token ids, NULL for any. of_ids: packed ids of the neurons, NULL for any.
-- at_least_count: fewest observations. of_width: neurons of a layer (d_mlp), from which packed ids are made.
-- standard_error and sign_consistency as in edges_from. Ordered by neuron, then token.
-- Try: FROM circuit_token_edges('embedding', of_tokens := [1], of_width := 8)
CREATE OR REPLACE MACRO circuit_token_edges(
    of_kind, of_tokens := NULL, of_ids := NULL, at_least_count := 1, of_width := 1
) AS TABLE
WITH tokens AS (
    SELECT unnest(of_tokens)::INTEGER AS token_id
), wanted AS (
    SELECT unnest(of_ids)::BIGINT AS id
), chosen AS (
    SELECT t.*, t.layer::BIGINT * of_width + t.neuron AS id
    FROM token_edges AS t
    WHERE t.kind = of_kind AND t."count" >= at_least_count
      AND (of_tokens IS NULL OR t.token_id IN (SELECT token_id FROM tokens))
      AND (of_ids IS NULL OR t.layer::BIGINT * of_width + t.neuron IN (SELECT id FROM wanted))
)
SELECT
    e.id, e.layer, e.neuron, e.token_id, e."count", e.n_graphs, e.weight_sum::DOUBLE / e."count" AS mean_weight,
    CASE WHEN e."count" > 1 AND e.weight_sq_sum IS NOT NULL THEN sqrt(greatest(e.weight_sq_sum - e.weight_sum::DOUBLE ** 2 / e."count", 0)
        / (e."count" - 1) / e."count") END AS standard_error,
    CASE WHEN e.weight_sq_sum IS NOT NULL THEN abs(e.weight_sum::DOUBLE) / nullif(e.weight_abs_sum, 0) END AS sign_consistency,
    e.weight_sum, e.weight_abs_sum
FROM chosen AS e
ORDER BY e.id, e.token_id;
