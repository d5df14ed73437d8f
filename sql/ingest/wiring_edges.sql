-- An atlas without attribution graphs: edges from the downstream lists of the wiring, one observation each.
SELECT (layer * $d_mlp + neuron)::INTEGER AS src, (other_layer * $d_mlp + other_neuron)::INTEGER AS tgt,
       layer AS src_layer, neuron AS src_neuron, 1 AS count, 0 AS n_graphs,
       effective_strength AS weight_sum, abs(effective_strength) AS weight_abs_sum,
       effective_strength * effective_strength AS weight_sq_sum,
       effective_strength AS weight_min, effective_strength AS weight_max
FROM wiring WHERE direction = 'downstream'
ORDER BY src, tgt
