-- The strongest direct edges of each neuron of one layer with tokens: embeddings it reads, logits it writes.
-- of_layer: the layer. of_kind: 'embedding' or 'logit'. max_rows: tokens of each neuron, by the sum of |F|.
-- Try: FROM layer_token_edges(0, 'embedding')
CREATE OR REPLACE MACRO layer_token_edges(of_layer, of_kind, max_rows := 10) AS TABLE
SELECT
    t.neuron, t.token_id, coalesce(v.token, '<' || t.token_id || '>') AS token, t.count,
    t.weight_sum::DOUBLE / t.count AS mean_weight
FROM token_edges AS t
LEFT JOIN vocab AS v ON v.token_id = t.token_id
WHERE t.layer = of_layer AND t.kind = of_kind
QUALIFY row_number() OVER (PARTITION BY t.neuron ORDER BY t.weight_abs_sum DESC, t.token_id) <= max_rows
ORDER BY t.neuron, t.weight_abs_sum DESC, t.token_id;
