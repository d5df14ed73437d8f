-- Pruning rows belong to neurons, scores lie in [0, 1] and fall as importance grows, weight ranks are 1 .. n within a layer, each neuron once per evaluation.
SELECT p.layer, p.neuron, p.pruning_score, p.weight_rank, p.eval_id
FROM pruning AS p
LEFT JOIN neurons AS n ON n.layer = p.layer AND n.neuron = p.neuron
WHERE n.layer IS NULL OR p.pruning_score NOT BETWEEN 0 AND 1 OR p.pruning_score_global NOT BETWEEN 0 AND 1
   OR p.weight_rank < 1 OR p.weight_rank > (SELECT count(*) FROM neurons AS k WHERE k.layer = p.layer)
UNION ALL
SELECT layer, neuron, NULL, count(*)::INTEGER, eval_id
FROM pruning
GROUP BY layer, neuron, eval_id
HAVING count(*) > 1
UNION ALL
SELECT layer, neuron, pruning_score, NULL, eval_id
FROM (
    SELECT *, lag(importance) OVER (PARTITION BY eval_id, score_method, layer ORDER BY pruning_score DESC) AS safer
    FROM pruning WHERE pruning_score IS NOT NULL
)
WHERE importance < safer
ORDER BY ALL;
