-- Labels of several neurons of one layer, without requests that failed.
-- of_layer: the layer. of_neurons: list of its neurons.
-- Try: FROM export_labels(1, [2, 3])
CREATE OR REPLACE MACRO export_labels(of_layer, of_neurons) AS TABLE
SELECT
    neuron, "pass", coalesce(polarity, 0) AS polarity, label, short_label, description, type, interpretability,
    confidence, source, model, run, score, created
FROM labels
WHERE layer = of_layer AND neuron BETWEEN list_min(of_neurons) AND list_max(of_neurons)
  AND neuron IN (SELECT unnest(of_neurons)) AND label IS NOT NULL AND label <> ''
  AND coalesce(status, 'ok') = 'ok'
ORDER BY neuron, "pass", coalesce(polarity, 0), source, model, run, created, label, description;
