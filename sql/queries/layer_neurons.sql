-- The neurons of one layer with what is known of each before a label is made.
-- of_layer: the layer. name = the chosen label; autointerp = the label of an imported autointerp run; dead = a rule says so;
-- settled = by rule nothing is left to ask about what fires it (dead, the first position of a text, one token; both signs);
-- lowest, highest = range of the activation.
-- Try: FROM layer_neurons(0)
CREATE OR REPLACE MACRO layer_neurons(of_layer) AS TABLE
WITH known AS (
    SELECT
        neuron,
        min_by(label, (coalesce(-score, 0), source, coalesce(run, ''), polarity, label))
            FILTER ("pass" = 'autointerp' AND source <> 'llm') AS autointerp,
        bool_or(source = 'rule:dead') AS dead,
        bool_and(source IN ('rule:dead', 'rule:bos') OR (source = 'rule:token' AND interpretability = 'high'))
            FILTER ("pass" = 'input' AND starts_with(source, 'rule:')) AS settled
    FROM labels
    WHERE layer = of_layer AND status = 'ok'
    GROUP BY neuron
)
SELECT
    n.neuron, n.feature_id, n.label AS name, k.autointerp, coalesce(k.dead, false) AS dead,
    coalesce(k.settled, false) AS settled, s.min AS lowest, s.max AS highest
FROM neurons AS n
LEFT JOIN known AS k ON k.neuron = n.neuron
LEFT JOIN neuron_stats AS s ON s.layer = n.layer AND s.neuron = n.neuron
WHERE n.layer = of_layer
ORDER BY n.neuron;
