-- Pruning candidates by layer: how many there are, and of how many neurons with a score.
-- threshold: percentile; a candidate has pruning_score >= 1 - threshold / 100.
-- candidates counts the true ones only. One row per layer, score_method and eval_id.
-- Try: FROM prune_summary(threshold := 25.0)
CREATE OR REPLACE MACRO prune_summary(threshold := 10.0) AS TABLE
SELECT
    layer AS layer_index, score_method, eval_id, count(pruning_score) AS scored,
    count(*) FILTER (pruning_score >= 1 - threshold / 100.0) AS candidates,
    avg(weight_magnitude) AS mean_weight_magnitude
FROM pruning
GROUP BY layer, score_method, eval_id
ORDER BY layer, score_method, eval_id;
