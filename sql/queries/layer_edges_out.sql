-- The strongest edges out of each neuron of one layer, with what the targets do.
-- of_layer: the layer of the sources. max_rows: edges of each neuron, by the sum of |F|.
-- other = packed id of the target; name = its output label, else its label.
-- Try: FROM layer_edges_out(0, max_rows := 2)
CREATE OR REPLACE MACRO layer_edges_out(of_layer, max_rows := 10) AS TABLE
WITH chosen AS (
    SELECT src, src_neuron, tgt, count, weight_sum, weight_abs_sum,
        row_number() OVER (PARTITION BY src ORDER BY weight_abs_sum DESC, tgt) AS place
    FROM edges
    WHERE src_layer = of_layer
    QUALIFY place <= max_rows
)
SELECT
    c.src_neuron::INTEGER AS neuron, c.place, c.tgt AS other, n.layer AS other_layer, n.neuron AS other_neuron,
    c.count, c.weight_sum::DOUBLE / c.count AS mean_weight, coalesce(n.output_label, n.label) AS name
FROM chosen AS c
JOIN neurons AS n ON n.feature_id = c.tgt
ORDER BY c.src_neuron, c.place;
