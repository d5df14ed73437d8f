-- The neurons of one layer with what is known of each before a label is made.
-- of_layer: the layer. name = the chosen label; autointerp = the label of an imported autointerp run; settled = a rule's
-- label that leaves nothing to ask (dead, one token, position); lowest, highest = range of the activation.
-- Try: FROM layer_neurons(0)
CREATE OR REPLACE MACRO layer_neurons(of_layer) AS TABLE
WITH known AS (
    SELECT
        neuron,
        min_by(label, (coalesce(-score, 0), source, coalesce(run, ''), polarity, label))
            FILTER ("pass" = 'autointerp' AND source <> 'llm') AS autointerp
    FROM labels
    WHERE layer = of_layer AND status = 'ok'
    GROUP BY neuron
)
SELECT n.neuron, n.feature_id, n.label AS name, n.input_label, n.output_label, k.autointerp, s.min AS lowest, s.max AS highest
FROM neurons AS n
LEFT JOIN known AS k ON k.neuron = n.neuron
LEFT JOIN neuron_stats AS s ON s.layer = n.layer AND s.neuron = n.neuron
WHERE n.layer = of_layer
ORDER BY n.neuron;
