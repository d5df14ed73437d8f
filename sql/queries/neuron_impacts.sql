-- What the model loses without one neuron, by evaluation, newest first.
-- of_layer, of_neuron: the neuron.
-- Try: FROM neuron_impacts(1, 2)
CREATE OR REPLACE MACRO neuron_impacts(of_layer, of_neuron) AS TABLE
SELECT
    layer AS layer_index, neuron AS neuron_index, evidence, impact_score, kl, kl_low, kl_high, delta_nll,
    top1_flip_rate, mean_change, max_change, safe_to_prune, reason, is_critical, tokens, documents, budget, ablation,
    eval_id, created
FROM impacts
WHERE layer = of_layer AND neuron = of_neuron
ORDER BY created DESC, eval_id;
