-- Weights, activation and gradient sums -> pruning scores (pruning.md), every method that the measurements allow.
-- fisher: replacing a by mu costs about g^2 (a - mu)^2 / 2. g changes on the way there: at its start it is that of the
-- position, at its end, where the neuron is at its mean, that of any position; their mean square is taken (trapezoid).
-- importance and the ranks are those of $method, one for the whole atlas. Sums of squares that cancel down to 1e-13 of
-- themselves are 0: a float32 value varies by 1.2e-7 of itself (1.4e-14 squared) through rounding alone.
WITH base AS (
    SELECT w.layer, w.neuron, w.weight_magnitude, w.gate_norm, w.up_norm, w.output_norm,
           nullif(s.grad_tokens, 0) AS counted,
           coalesce(s.grad_s_abs / counted, s.abs_sum / nullif(s.n_tokens, 0)) AS activation_magnitude,
           coalesce(s.grad_s_a / counted, s.s1 / nullif(s.n_tokens, 0)) AS mu,
           coalesce(s.grad_s_a2 / counted, s.s2 / nullif(s.n_tokens, 0)) AS square,
           s.grad_s_a2g2, s.grad_s_ag2, s.grad_s_g2, s.grad_s_absag
    FROM shard_neuron_weights w LEFT JOIN neuron_stats s USING (layer, neuron)
), centred AS (
    SELECT *, square - mu * mu AS spread,
           (grad_s_a2g2 - 2 * mu * grad_s_ag2 + mu * mu * grad_s_g2) / counted AS moved
    FROM base
), methods AS (
    SELECT *, CASE WHEN spread <= 1e-13 * square THEN 0 ELSE spread END AS activation_variance,
           CASE WHEN moved <= 1e-13 * (grad_s_a2g2 + mu * mu * grad_s_g2) / counted THEN 0 ELSE moved END AS at_start,
           (at_start + activation_variance * grad_s_g2 / counted) / 2 AS fisher,
           activation_variance * output_norm ** 2 AS wifv,
           grad_s_absag / counted AS taylor_abs,
           sqrt(square) * output_norm AS wanda
    FROM centred
), scored AS (
    SELECT *, CASE $method WHEN 'fisher' THEN fisher WHEN 'wifv' THEN wifv ELSE weight_magnitude END AS importance
    FROM methods
)
SELECT layer, neuron, weight_magnitude,
       row_number() OVER (PARTITION BY layer ORDER BY weight_magnitude DESC, neuron)::INTEGER AS weight_rank,
       gate_norm, up_norm, output_norm, activation_magnitude, activation_variance, importance,
       CASE WHEN importance IS NOT NULL THEN
           1 - (row_number() OVER (PARTITION BY layer ORDER BY importance NULLS LAST, neuron) - 1)
               / nullif(count(importance) OVER (PARTITION BY layer) - 1, 0)::DOUBLE END AS pruning_score,
       $method AS score_method, $eval_id AS eval_id, fisher, wifv, taylor_abs, wanda,
       CASE WHEN importance IS NOT NULL THEN
           1 - (row_number() OVER (ORDER BY importance NULLS LAST, layer, neuron) - 1)
               / nullif(count(importance) OVER () - 1, 0)::DOUBLE END AS pruning_score_global
FROM scored
ORDER BY layer, neuron
