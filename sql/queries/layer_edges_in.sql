-- The strongest edges into each neuron of one layer, with what fires the sources.
-- of_layer: the layer of the targets. max_rows: edges of each neuron, by the sum of |F|.
-- other = packed id of the source; name = its input label, else its label; effect = its output label.
-- A whole layer's edges stand all over the table of edges, so this reads its targets once from end to end.
-- Try: FROM layer_edges_in(2, max_rows := 2)
CREATE OR REPLACE MACRO layer_edges_in(of_layer, max_rows := 10) AS TABLE
WITH ends AS (
    SELECT min(feature_id) AS first_id, max(feature_id) AS last_id FROM neurons WHERE layer = of_layer
), chosen AS (
    SELECT tgt, src, count, weight_sum, weight_abs_sum,
        row_number() OVER (PARTITION BY tgt ORDER BY weight_abs_sum DESC, src) AS place
    FROM edges
    WHERE tgt BETWEEN (SELECT first_id FROM ends) AND (SELECT last_id FROM ends)
    QUALIFY place <= max_rows
)
SELECT
    (c.tgt - ends.first_id)::INTEGER AS neuron, c.place, c.src AS other, n.layer AS other_layer,
    n.neuron AS other_neuron, c.count, c.weight_sum::DOUBLE / c.count AS mean_weight,
    coalesce(n.input_label, n.label) AS name, n.output_label AS effect
FROM chosen AS c
CROSS JOIN ends
JOIN neurons AS n ON n.feature_id = c.src
ORDER BY c.tgt, c.place;
