-- Pruning candidates by layer: how many there are, and of how many neurons with a score.
-- threshold: percentile; a candidate has pruning_score >= 1 - threshold / 100. candidates counts the true ones only.
-- of_method: fisher, wifv, weights, taylor_abs or wanda; NULL for the atlas's own. of_scope: rank within each 'layer',
-- or among all neurons ('global'). of_eval: one eval_id; NULL for all, each by itself.
-- One row per layer, score_method and eval_id.
-- Try: FROM prune_summary(threshold := 25.0)
CREATE OR REPLACE MACRO prune_summary(
    threshold := 10.0, of_method := NULL, of_scope := 'layer', of_eval := NULL
) AS TABLE
WITH chosen AS (
    SELECT p.layer, p.neuron, p.weight_magnitude, p.eval_id, p.pruning_score AS stored,
        coalesce(of_method, p.score_method) AS score_method, CASE WHEN of_scope = 'layer' THEN p.layer END AS part,
        CASE coalesce(of_method, p.score_method)
            WHEN p.score_method THEN p.importance
            WHEN 'fisher' THEN p.fisher
            WHEN 'wifv' THEN coalesce(p.wifv, p.activation_variance * p.output_norm ** 2)
            WHEN 'weights' THEN p.weight_magnitude
            WHEN 'taylor_abs' THEN p.taylor_abs
            WHEN 'wanda' THEN p.wanda END AS score
    FROM pruning AS p
    WHERE CASE
        WHEN of_scope NOT IN ('layer', 'global') THEN error('of_scope is layer or global')
        WHEN of_method NOT IN ('fisher', 'wifv', 'weights', 'taylor_abs', 'wanda')
            THEN error('of_method is fisher, wifv, weights, taylor_abs or wanda')
        ELSE of_eval IS NULL OR p.eval_id = of_eval END
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY eval_id, part ORDER BY score NULLS LAST, layer, neuron) AS place,
        count(score) OVER (PARTITION BY eval_id, part) AS scored
    FROM chosen
), placed AS (
    SELECT *, CASE
        WHEN of_method IS NULL AND of_scope = 'layer' THEN stored
        WHEN score IS NOT NULL THEN 1 - (place - 1) / nullif(scored - 1, 0)::DOUBLE END AS pruning_score
    FROM ranked
)
SELECT
    layer AS layer_index, score_method, eval_id, count(pruning_score) AS scored,
    count(*) FILTER (pruning_score >= 1 - threshold / 100.0) AS candidates,
    avg(weight_magnitude) AS mean_weight_magnitude
FROM placed
GROUP BY layer, score_method, eval_id
ORDER BY layer, score_method, eval_id;
