-- Activation shards (and gradient shards, where there are any) -> neuron_stats, one row per neuron.
-- Counts add exactly; float sums are added in the order of shards (gradients: of blocks of documents, which do not
-- depend on the number of shards), so the result does not depend on threads.
-- Quantiles are interpolated inside the bin where the cumulative count reaches the share.
WITH merged AS (
    SELECT layer, neuron, sum(n_tokens)::BIGINT AS n_tokens,
           sum(s1 ORDER BY shard) AS s1, sum(s2 ORDER BY shard) AS s2, sum(s3 ORDER BY shard) AS s3,
           sum(s4 ORDER BY shard) AS s4, sum(abs_sum ORDER BY shard) AS abs_sum,
           sum(n_active)::BIGINT AS n_active, sum(n_fired_pos)::BIGINT AS n_fired_pos,
           sum(n_fired_neg)::BIGINT AS n_fired_neg,
           nullif(any_value(fire_pos), 'inf'::FLOAT) AS fire_pos,
           nullif(any_value(fire_neg), '-inf'::FLOAT) AS fire_neg, min(min) AS min, max(max) AS max,
           any_value(hist_lo) AS hist_lo, any_value(hist_hi) AS hist_hi,
           sum(calib_gate ORDER BY shard) / sum(n_tokens) AS calib_gate,
           sum(calib_up ORDER BY shard) / sum(n_tokens) AS calib_up,
           sum(calib_out ORDER BY shard) / sum(n_tokens) AS calib_out
    FROM shard_neuron_stats GROUP BY layer, neuron
), bins AS (
    SELECT layer, neuron, bin, sum(n)::BIGINT AS n
    FROM (SELECT layer, neuron, unnest(hist) AS n, generate_subscripts(hist, 1) AS bin FROM shard_neuron_stats)
    GROUP BY layer, neuron, bin
), running AS (
    SELECT *, sum(n) OVER (PARTITION BY layer, neuron ORDER BY bin) AS reached,
           sum(n) OVER (PARTITION BY layer, neuron) AS total, max(bin) OVER (PARTITION BY layer, neuron) AS last_bin
    FROM bins
), shares AS (
    SELECT unnest([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]) AS share
), reached AS (
    SELECT layer, neuron, share, min_by(struct_pack(bin := bin, n := n, reached := reached, total := total,
           last_bin := last_bin), bin) AS b
    FROM running, shares WHERE n > 0 AND reached >= share * total GROUP BY layer, neuron, share
), quantiles AS (
    SELECT r.layer, r.neuron, list((CASE
        WHEN b.bin = 1 THEN m.min
        WHEN b.bin = b.last_bin THEN m.max
        ELSE least(greatest(m.hist_lo + (m.hist_hi - m.hist_lo) / (b.last_bin - 2)
             * (b.bin - 2 + (share * b.total - (b.reached - b.n)) / b.n), m.min), m.max)
        END)::FLOAT ORDER BY share) AS quantiles
    FROM reached r JOIN merged m USING (layer, neuron) GROUP BY r.layer, r.neuron
), hists AS (
    SELECT layer, neuron, list(n ORDER BY bin) AS hist FROM bins GROUP BY layer, neuron
), gradients AS (
    SELECT layer, neuron, sum(n_tokens)::BIGINT AS grad_tokens,
           sum(s_a ORDER BY block) AS grad_s_a, sum(s_a2 ORDER BY block) AS grad_s_a2,
           sum(s_abs ORDER BY block) AS grad_s_abs, sum(s_g2 ORDER BY block) AS grad_s_g2,
           sum(s_ag ORDER BY block) AS grad_s_ag, sum(s_a2g2 ORDER BY block) AS grad_s_a2g2,
           sum(s_absag ORDER BY block) AS grad_s_absag, sum(s_ag2 ORDER BY block) AS grad_s_ag2
    FROM shard_gradient_stats GROUP BY layer, neuron
)
SELECT merged.*, hists.hist, quantiles.quantiles, gradients.* EXCLUDE (layer, neuron)
FROM merged
JOIN hists USING (layer, neuron)
LEFT JOIN quantiles USING (layer, neuron)
LEFT JOIN gradients USING (layer, neuron)
ORDER BY layer, neuron
