-- The neurons of one layer by what the model loses on held-out text without each of them, most important first.
-- of_layer: the layer. of_eval: eval_id; NULL for the newest evaluation of the layer. max_rows: limit; NULL for all.
-- evidence: measured, or estimated from a forward and a few backward passes and calibrated on the measured ones; kl_low
-- and kl_high hold the error of that. Written by "atlas importance".
-- Try: FROM importance_of_layer(1)
CREATE OR REPLACE MACRO importance_of_layer(of_layer, of_eval := NULL, max_rows := NULL) AS TABLE
SELECT
    i.layer AS layer_index, i.neuron AS neuron_index, n.label, i.activation_magnitude, i.activation_variance,
    i.impact_score, i.is_critical, i.evidence, i.kl, i.kl_low, i.kl_high, i.safe_to_prune, i.reason, i.tokens,
    i.documents, i.budget, i.ablation, i.eval_id
FROM impacts AS i
LEFT JOIN neurons AS n ON n.layer = i.layer AND n.neuron = i.neuron
WHERE i.layer = of_layer AND i.activation_magnitude IS NOT NULL
  AND i.eval_id = coalesce(of_eval, (
      SELECT k.eval_id FROM impacts AS k WHERE k.layer = of_layer AND k.activation_magnitude IS NOT NULL
      ORDER BY k.created DESC, k.eval_id LIMIT 1
  ))
ORDER BY i.kl DESC, i.neuron
LIMIT max_rows;
