-- Neurons in the order in which they are safest to remove.
-- threshold: percentile; a candidate has pruning_score >= 1 - threshold / 100, a neuron without a score is none.
-- of_layer: one layer; NULL for all. only_candidates: false also lists the neurons that are none.
-- max_rows: limit; NULL for all. of_method: fisher, wifv, weights, taylor_abs or wanda; NULL for the atlas's own.
-- of_scope: rank within each 'layer', or among all neurons ('global'). of_eval: eval_id; needed where there are several,
-- since rows of different eval_id are never mixed (the error lists them).
-- Try: FROM prune_candidates(threshold := 25.0, max_rows := 5)
CREATE OR REPLACE MACRO prune_candidates(
    threshold := 10.0, of_layer := NULL, only_candidates := true, max_rows := 50,
    of_method := NULL, of_scope := 'layer', of_eval := NULL
) AS TABLE
WITH evaluations AS (
    SELECT count(DISTINCT eval_id) AS evals, string_agg(DISTINCT eval_id, ', ' ORDER BY eval_id) AS names FROM pruning
), chosen AS (
    SELECT p.layer, p.neuron, p.weight_magnitude, p.weight_rank, p.eval_id, p.pruning_score AS stored,
        coalesce(of_method, p.score_method) AS score_method, CASE WHEN of_scope = 'layer' THEN p.layer END AS part,
        CASE coalesce(of_method, p.score_method)
            WHEN p.score_method THEN p.importance
            WHEN 'fisher' THEN p.fisher
            WHEN 'wifv' THEN coalesce(p.wifv, p.activation_variance * p.output_norm ** 2)
            WHEN 'weights' THEN p.weight_magnitude
            WHEN 'taylor_abs' THEN p.taylor_abs
            WHEN 'wanda' THEN p.wanda END AS score
    FROM pruning AS p, evaluations AS e
    WHERE p.eval_id IS NOT DISTINCT FROM CASE
        WHEN of_scope NOT IN ('layer', 'global') THEN error('of_scope is layer or global')
        WHEN of_method NOT IN ('fisher', 'wifv', 'weights', 'taylor_abs', 'wanda')
            THEN error('of_method is fisher, wifv, weights, taylor_abs or wanda')
        WHEN of_eval IS NOT NULL THEN of_eval
        WHEN e.evals > 1 THEN error('scores of ' || e.evals || ' evaluations: choose of_eval := one of ' || e.names)
        ELSE p.eval_id END
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY part ORDER BY score NULLS LAST, layer, neuron) AS place,
        count(score) OVER (PARTITION BY part) AS scored
    FROM chosen
), placed AS (
    SELECT *, CASE
        WHEN of_method IS NULL AND of_scope = 'layer' THEN stored
        WHEN score IS NOT NULL THEN 1 - (place - 1) / nullif(scored - 1, 0)::DOUBLE END AS pruning_score
    FROM ranked
)
SELECT
    r.layer AS layer_index, r.neuron AS neuron_index, n.label, r.weight_magnitude, r.weight_rank,
    coalesce(r.pruning_score >= 1 - threshold / 100.0, false) AS is_pruning_candidate, r.pruning_score,
    r.score_method, r.eval_id
FROM placed AS r
LEFT JOIN neurons AS n ON n.layer = r.layer AND n.neuron = r.neuron
WHERE (of_layer IS NULL OR r.layer = of_layer)
  AND (NOT only_candidates OR r.pruning_score >= 1 - threshold / 100.0)
ORDER BY r.pruning_score DESC NULLS LAST, r.layer, r.neuron
LIMIT max_rows;
