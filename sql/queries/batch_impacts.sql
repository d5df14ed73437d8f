-- The members of a batch, each ablated alone, least harmful first; each of m is judged by the batch's budget / m.
-- of_set: set_id of the batch (see batch_sets); NULL for the largest of the newest run. max_rows: limit; NULL for all.
-- Try: FROM batch_impacts()
CREATE OR REPLACE MACRO batch_impacts(of_set := NULL, max_rows := NULL) AS TABLE
WITH batch AS (
    SELECT b.set_id, b.eval_id, b.budget, b.n_neurons, b.neurons
    FROM impacts AS b
    WHERE b.n_neurons > 1 AND b.evidence = 'measured' AND (of_set IS NULL OR b.set_id = of_set)
    ORDER BY b.run DESC, b.n_neurons DESC, b.set_id LIMIT 1
), member AS (
    SELECT set_id, eval_id, budget / n_neurons AS budget, unnest(neurons) AS id FROM batch
)
SELECT
    i.layer AS layer_index, i.neuron AS neuron_index, 0.1 * i.kl_high / m.budget AS impact_score, i.mean_change,
    i.max_change, CASE WHEN i.reason IS NULL THEN 0.1 * i.kl_high / m.budget < 0.1 END AS safe_to_prune, i.kl, i.kl_low,
    i.kl_high, i.delta_nll, i.top1_flip_rate, m.budget, i.reason, i.tokens, i.documents, m.set_id, m.eval_id
FROM member AS m
JOIN impacts AS i ON i.eval_id = m.eval_id AND i.n_neurons = 1 AND i.evidence = 'measured' AND i.neurons[1] = m.id
ORDER BY coalesce(i.kl_high, i.kl), i.kl, i.layer, i.neuron
LIMIT max_rows;
