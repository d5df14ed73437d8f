-- Impacts are of neurons that are there and sorted, each set once per evaluation, with limits around a KL of at least 0 and a verdict only by the rule.
SELECT i.set_id, i.eval_id, i.neurons, i.kl, i.impact_score, i.safe_to_prune
FROM impacts AS i
WHERE NOT coalesce(i.evidence IN ('measured', 'estimated'), false)
   OR i.n_neurons IS DISTINCT FROM len(i.neurons) OR i.neurons IS DISTINCT FROM list_sort(list_distinct(i.neurons))
   OR i.neurons[1] < 0 OR i.neurons[-1] > (SELECT max(feature_id) FROM neurons)
   OR (i.n_neurons = 1) IS DISTINCT FROM (i.layer IS NOT NULL AND i.neuron IS NOT NULL)
   OR NOT coalesce(i.kl >= 0 AND isfinite(i.kl), false) OR i.kl_low > i.kl_high OR NOT isfinite(i.kl_high)
   OR (i.kl_high IS NULL) IS DISTINCT FROM (i.impact_score IS NULL)
   OR NOT coalesce(i.budget > 0, false) OR abs(i.impact_score - 0.1 * i.kl_high / i.budget) > 1e-9 * i.impact_score + 1e-15
   OR i.safe_to_prune IS DISTINCT FROM (i.impact_score < 0.1) AND i.safe_to_prune IS NOT NULL
   OR i.safe_to_prune AND (i.tokens < 10000 OR i.evidence = 'estimated')
   OR (i.safe_to_prune IS NULL) IS DISTINCT FROM (i.reason IS NOT NULL)
   OR NOT isfinite(i.delta_nll) OR NOT isfinite(i.max_change) OR i.mean_change > i.max_change * (1 + 1e-9)
   OR i.top1_flip_rate NOT BETWEEN 0 AND 1 OR i.tokens < 1 OR i.documents < 1
UNION ALL
SELECT set_id, eval_id, NULL, NULL, NULL, NULL
FROM impacts
GROUP BY set_id, eval_id
HAVING count(*) > 1
ORDER BY ALL;
