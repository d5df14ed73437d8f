-- Every label of one neuron with its source; rows without a label (status other than ok) last.
-- of_layer, of_neuron: the neuron.
-- Try: FROM neuron_labels(1, 2)
CREATE OR REPLACE MACRO neuron_labels(of_layer, of_neuron) AS TABLE
SELECT
    "pass", polarity, label, short_label, description, type, interpretability, confidence, status, source, model,
    run, score, created
FROM labels
WHERE layer = of_layer AND neuron = of_neuron
ORDER BY status <> 'ok', "pass", polarity, source, model, run, created, label;
