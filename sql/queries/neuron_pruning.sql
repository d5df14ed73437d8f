-- How safe one neuron is to remove; every method's score of it.
-- of_layer, of_neuron: the neuron. threshold: percentile of candidates within the layer. One row per eval_id: those of
-- different eval_id are not comparable.
-- Try: FROM neuron_pruning(1, 2)
CREATE OR REPLACE MACRO neuron_pruning(of_layer, of_neuron, threshold := 10.0) AS TABLE
SELECT
    layer AS layer_index, neuron AS neuron_index, weight_magnitude, weight_rank,
    coalesce(pruning_score >= 1 - threshold / 100.0, false) AS is_pruning_candidate, pruning_score, importance,
    activation_magnitude, activation_variance, gate_norm, up_norm, output_norm, score_method, eval_id,
    fisher, wifv, taylor_abs, wanda, pruning_score_global
FROM pruning
WHERE layer = of_layer AND neuron = of_neuron
ORDER BY eval_id, score_method;
