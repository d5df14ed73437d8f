-- Weight analysis of every tensor: parameters, sparsity, magnitudes |w| and norms, with the names of NeuronScope's file.
-- of_layer: one layer; -1 for what is outside the layers, NULL for all. max_rows: limit; NULL for all.
-- Try: FROM weight_layers(of_layer := 0)
CREATE OR REPLACE MACRO weight_layers(of_layer := NULL, max_rows := NULL) AS TABLE
SELECT
    name AS layer_name, layer AS layer_index, total_parameters, non_zero_parameters, sparsity, mean_magnitude,
    std_magnitude, min_magnitude, max_magnitude, l1_norm, l2_norm
FROM weight_stats
WHERE of_layer IS NULL OR layer = of_layer
ORDER BY layer, name
LIMIT max_rows;
