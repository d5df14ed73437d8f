-- Weight-based connections of one neuron along the residual stream (no attention path), with labels.
-- of_layer, of_neuron: the neuron. max_rows: rows of each direction and sign; NULL for all.
-- strength = effective_strength, negative = inhibitory.
-- Try: FROM neuron_wiring(1, 2, max_rows := 3)
CREATE OR REPLACE MACRO neuron_wiring(of_layer, of_neuron, max_rows := 10) AS TABLE
SELECT
    w.direction, w.polarity, w.rank, w.other_layer AS layer, w.other_neuron AS neuron, n.label, n.cluster_path,
    w.effective_strength AS strength, w.c_up, w.c_gate, w.lab_strength, w.polarity_source
FROM wiring AS w
LEFT JOIN neurons AS n ON n.layer = w.other_layer AND n.neuron = w.other_neuron
WHERE w.layer = of_layer AND w.neuron = of_neuron AND (max_rows IS NULL OR w.rank < max_rows)
ORDER BY w.direction DESC, w.polarity DESC, w.rank, w.other_layer, w.other_neuron;
