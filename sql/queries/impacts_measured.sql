-- What the model loses without neurons or sets of them, least harmful first; only sets of one evaluation are compared.
-- of_eval: eval_id; NULL for the evaluation of the newest row. of_layer: neurons of one layer; NULL for all.
-- of_evidence: measured or estimated; NULL for both. singles_only: false also lists sets of several neurons.
-- max_rows: limit; NULL for all.
-- Try: FROM impacts_measured(of_layer := 1)
CREATE OR REPLACE MACRO impacts_measured(
    of_eval := NULL, of_layer := NULL, of_evidence := NULL, singles_only := false, max_rows := 50
) AS TABLE
SELECT
    i.layer AS layer_index, i.neuron AS neuron_index, n.label, i.n_neurons, i.evidence, i.impact_score, i.kl, i.kl_low,
    i.kl_high, i.delta_nll, i.delta_nll_low, i.delta_nll_high, i.kl_p99, i.top1_flip_rate, i.mean_change, i.max_change,
    i.safe_to_prune, i.reason, i.tokens, i.documents, i.budget, i.activation_magnitude, i.activation_variance,
    i.is_critical, i.sum_kl, i.joint_over_sum, i.ablation, i.neurons, i.set_id, i.eval_id
FROM impacts AS i
LEFT JOIN neurons AS n ON n.layer = i.layer AND n.neuron = i.neuron
WHERE i.eval_id = coalesce(of_eval, (SELECT k.eval_id FROM impacts AS k ORDER BY k.created DESC, k.eval_id LIMIT 1))
  AND (of_layer IS NULL OR i.layer = of_layer)
  AND (of_evidence IS NULL OR i.evidence = of_evidence)
  AND (NOT singles_only OR i.n_neurons = 1)
ORDER BY i.kl, i.set_id
LIMIT max_rows;
