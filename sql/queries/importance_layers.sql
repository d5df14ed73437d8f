-- The layers whose neurons' importance is known, by evaluation: how many neurons, how many critical or measured.
-- of_eval: eval_id; NULL for all. max_rows: limit; NULL for all. critical_neurons is NULL where no interval exists.
-- Try: FROM importance_layers()
CREATE OR REPLACE MACRO importance_layers(of_eval := NULL, max_rows := NULL) AS TABLE
SELECT
    layer AS layer_index, eval_id, count(*) AS total_neurons,
    CASE WHEN count(is_critical) > 0 THEN count(*) FILTER (is_critical) END AS critical_neurons,
    count(*) FILTER (evidence = 'measured') AS measured_neurons, median(kl) AS median_kl, max(kl) AS max_kl,
    any_value(tokens) AS tokens, any_value(documents) AS documents, any_value(ablation) AS ablation
FROM impacts
WHERE layer IS NOT NULL AND activation_magnitude IS NOT NULL AND (of_eval IS NULL OR eval_id = of_eval)
GROUP BY layer, eval_id
ORDER BY layer, eval_id
LIMIT max_rows;
