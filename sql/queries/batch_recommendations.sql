-- What is recommended on a batch: how many members are safe or risky alone, how many may go, which are harmful.
-- of_set: set_id of the batch (macro batch_sets); NULL for the largest of the newest run. suggested_batch_size: the
-- longest prefix of the members, least harmful first, that was measured and is safe; 0 where none is, NULL without
-- verdicts, as the counts. high_impact_neurons: members with impact_score above 0.3.
-- Try: FROM batch_recommendations()
CREATE OR REPLACE MACRO batch_recommendations(of_set := NULL) AS TABLE
WITH batch AS (
    SELECT b.set_id, b.eval_id, b.budget, b.n_neurons, b.neurons, b.safe_to_prune, b.reason
    FROM impacts AS b
    WHERE b.n_neurons > 1 AND b.evidence = 'measured' AND (of_set IS NULL OR b.set_id = of_set)
    ORDER BY b.run DESC, b.n_neurons DESC, b.set_id LIMIT 1
), listed AS (
    SELECT eval_id, budget / n_neurons AS budget, unnest(neurons) AS id FROM batch
), member AS (
    SELECT
        l.id, i.layer AS layer_index, i.neuron AS neuron_index, 0.1 * i.kl_high / l.budget AS impact_score,
        i.mean_change, i.max_change,
        CASE WHEN i.reason IS NULL THEN 0.1 * i.kl_high / l.budget < 0.1 END AS safe_to_prune,
        row_number() OVER (ORDER BY coalesce(i.kl_high, i.kl), i.kl, l.id) AS place
    FROM listed AS l
    JOIN impacts AS i ON i.eval_id = l.eval_id AND i.n_neurons = 1 AND i.evidence = 'measured' AND i.neurons[1] = l.id
), prefix AS (
    SELECT s.n_neurons
    FROM impacts AS s, batch AS b, (SELECT list(id ORDER BY place) AS ids FROM member) AS m
    WHERE s.eval_id = b.eval_id AND s.evidence = 'measured' AND s.n_neurons <= b.n_neurons
      AND s.kl_high < b.budget AND s.reason IS NULL AND s.neurons = list_sort(m.ids[1:s.n_neurons])
)
SELECT
    b.set_id, b.eval_id, b.n_neurons, b.budget,
    CASE WHEN b.reason IS NULL THEN (SELECT count(*) FROM member WHERE safe_to_prune) END AS safe_to_prune,
    CASE WHEN b.reason IS NULL THEN (SELECT count(*) FROM member WHERE NOT safe_to_prune) END AS risky_to_prune,
    CASE WHEN b.reason IS NULL THEN coalesce((SELECT max(n_neurons) FROM prefix), 0) END AS suggested_batch_size,
    coalesce((
        SELECT list({layer_index: layer_index, neuron_index: neuron_index, impact_score: impact_score,
                     mean_change: mean_change, max_change: max_change, safe_to_prune: safe_to_prune} ORDER BY place)
        FROM member WHERE impact_score > 0.3
    ), []) AS high_impact_neurons, b.reason
FROM batch AS b
ORDER BY b.set_id;
