-- Neurons in the order in which they are safest to remove.
-- threshold: percentile; a candidate has pruning_score >= 1 - threshold / 100.
-- of_layer: one layer; NULL for all. only_candidates: false also lists the neurons that are none.
-- max_rows: limit; NULL for all. Rows of different eval_id are not comparable. pruning_score is within the layer.
-- Try: FROM prune_candidates(threshold := 25.0, max_rows := 5)
CREATE OR REPLACE MACRO prune_candidates(threshold := 10.0, of_layer := NULL, only_candidates := true, max_rows := 50)
AS TABLE
SELECT
    p.layer AS layer_index, p.neuron AS neuron_index, n.label, p.weight_magnitude, p.weight_rank,
    p.pruning_score >= 1 - threshold / 100.0 AS is_pruning_candidate, p.pruning_score, p.score_method, p.eval_id
FROM pruning AS p
LEFT JOIN neurons AS n ON n.layer = p.layer AND n.neuron = p.neuron
WHERE (of_layer IS NULL OR p.layer = of_layer)
  AND (NOT only_candidates OR p.pruning_score >= 1 - threshold / 100.0)
ORDER BY p.pruning_score DESC NULLS LAST, p.layer, p.neuron, p.eval_id, p.score_method
LIMIT max_rows;
