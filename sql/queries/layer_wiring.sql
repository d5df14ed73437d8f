-- The strongest connections by weight of each neuron of one layer, with what the other neurons are called.
-- of_layer: the layer. of_direction: 'downstream' or 'upstream'. max_rows: connections of each sign.
-- mean_weight = effective_strength with the sign of its polarity; name = the other's output label (downstream) or input
-- label (upstream), else its label.
-- Try: FROM layer_wiring(0, 'downstream')
CREATE OR REPLACE MACRO layer_wiring(of_layer, of_direction, max_rows := 5) AS TABLE
SELECT
    w.neuron, row_number() OVER (PARTITION BY w.neuron ORDER BY w.polarity DESC, w.rank) AS place,
    n.feature_id AS other, w.other_layer, w.other_neuron, NULL::INTEGER AS count,
    w.polarity * abs(w.effective_strength)::DOUBLE AS mean_weight,
    coalesce(CASE WHEN of_direction = 'downstream' THEN n.output_label ELSE n.input_label END, n.label) AS name
FROM wiring AS w
JOIN neurons AS n ON n.layer = w.other_layer AND n.neuron = w.other_neuron
WHERE w.layer = of_layer AND w.direction = of_direction AND w.rank < max_rows
ORDER BY w.neuron, place;
