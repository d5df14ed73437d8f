-- Weights, activation and gradient sums -> pruning scores (pruning.md). fisher where gradients were measured, else
-- wifv where activations were, else weights; one method for the whole atlas.
WITH base AS (
    SELECT w.layer, w.neuron, w.weight_magnitude, w.gate_norm, w.up_norm, w.output_norm,
           coalesce(s.grad_s_abs / s.grad_tokens, s.abs_sum / s.n_tokens) AS activation_magnitude,
           coalesce(s.grad_s_a2 / s.grad_tokens - (s.grad_s_a / s.grad_tokens) ** 2,
                    s.s2 / s.n_tokens - (s.s1 / s.n_tokens) ** 2) AS variance,
           s.grad_s_a / s.grad_tokens AS mu, s.*  EXCLUDE (layer, neuron)
    FROM shard_neuron_weights w LEFT JOIN neuron_stats s USING (layer, neuron)
), scored AS (
    SELECT *, CASE $method
        WHEN 'fisher' THEN greatest((grad_s_a2g2 - 2 * mu * grad_s_ag2 + mu * mu * grad_s_g2) / grad_tokens, 0)
        WHEN 'wifv' THEN greatest(variance, 0) * output_norm ** 2
        ELSE weight_magnitude END AS importance
    FROM base
)
SELECT layer, neuron, weight_magnitude,
       row_number() OVER (PARTITION BY layer ORDER BY weight_magnitude DESC, neuron)::INTEGER AS weight_rank,
       gate_norm, up_norm, output_norm, activation_magnitude, greatest(variance, 0) AS activation_variance,
       importance,
       1 - (row_number() OVER (PARTITION BY layer ORDER BY importance, neuron) - 1)
           / greatest(count(*) OVER (PARTITION BY layer) - 1, 1)::DOUBLE AS pruning_score,
       $method AS score_method, $eval_id AS eval_id
FROM scored
ORDER BY layer, neuron
