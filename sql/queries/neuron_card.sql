-- One neuron in one row: names, module, activation statistics, degrees, pruning score.
-- of_layer, of_neuron: the neuron, both from 0.
-- mean, std, skewness, excess_kurtosis are over all counted positions; density = share of positions with a > 0;
-- fired_pos / fired_neg = share of positions beyond fire_pos / fire_neg. NULL where nothing was measured.
-- Try: FROM neuron_card(1, 2)
CREATE OR REPLACE MACRO neuron_card(of_layer, of_neuron) AS TABLE
WITH chosen AS (
    SELECT * FROM neurons WHERE layer = of_layer AND neuron = of_neuron
), moments AS (
    SELECT *, s1 / nullif(n_tokens, 0) AS m, s2 / nullif(n_tokens, 0) - (s1 / nullif(n_tokens, 0)) ** 2 AS v
    FROM neuron_stats WHERE layer = of_layer AND neuron = of_neuron
)
SELECT
    c.layer, c.neuron, c.feature_id, c.label, c.description, c.input_label, c.output_label,
    c.cluster_path, k.label AS cluster_label, k.size AS cluster_size,
    c.max_activation, c.num_exemplars, c.appearance_count, c.output_norm, c.infomap_flow,
    coalesce(e.n_in, 0)::BIGINT AS n_edges_in, coalesce(e.n_out, 0)::BIGINT AS n_edges_out,
    s.n_tokens, s.m AS mean, sqrt(greatest(s.v, 0)) AS std,
    (s.s3 / s.n_tokens - 3 * s.m * s.s2 / s.n_tokens + 2 * s.m ** 3) / nullif(greatest(s.v, 0) ** 1.5, 0) AS skewness,
    (s.s4 / s.n_tokens - 4 * s.m * s.s3 / s.n_tokens + 6 * s.m ** 2 * s.s2 / s.n_tokens - 3 * s.m ** 4)
        / nullif(greatest(s.v, 0) ** 2, 0) - 3 AS excess_kurtosis,
    s.n_active / s.n_tokens AS density,
    s.n_fired_pos / s.n_tokens AS fired_pos, s.n_fired_neg / s.n_tokens AS fired_neg,
    s.fire_pos, s.fire_neg, s.min, s.max, s.quantiles, s.hist_lo, s.hist_hi, s.hist,
    p.pruning_score, p.importance, p.score_method
FROM chosen AS c
LEFT JOIN edge_totals AS e ON e.id = c.feature_id
LEFT JOIN moments AS s ON s.layer = c.layer AND s.neuron = c.neuron
LEFT JOIN clusters AS k ON k.cluster_path = c.cluster_path
LEFT JOIN (
    SELECT * FROM pruning WHERE layer = of_layer AND neuron = of_neuron ORDER BY eval_id LIMIT 1
) AS p ON true;
