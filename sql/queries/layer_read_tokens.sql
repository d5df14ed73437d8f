-- Tokens that the input rows of each neuron of one layer read, one row a neuron, part (gate, up) and sign.
-- of_layer: the layer. max_rows: tokens of each part and sign; NULL for all.
-- tokens and token_values are in step, strongest first; values as in read_tokens.
-- Try: FROM layer_read_tokens(0, max_rows := 3)
CREATE OR REPLACE MACRO layer_read_tokens(of_layer, max_rows := 8) AS TABLE
SELECT
    r.neuron, r.part, r.polarity,
    list(coalesce(v.token, '<' || r.token_id || '>') ORDER BY r.rank) AS tokens,
    list(r.value ORDER BY r.rank) AS token_values
FROM read_tokens AS r
LEFT JOIN vocab AS v ON v.token_id = r.token_id
WHERE r.layer = of_layer AND (max_rows IS NULL OR r.rank < max_rows)
GROUP BY r.neuron, r.part, r.polarity
ORDER BY r.neuron, r.part, r.polarity DESC;
