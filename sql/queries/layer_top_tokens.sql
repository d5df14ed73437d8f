-- The tokens that fire each neuron of one layer most, both signs.
-- of_layer: the layer. max_rows: tokens of each sign, by expected.
-- n = strong firings on the token; share = n / its occurrences; expected = sum of |activation| over strong firings /
-- occurrences. Counted over all documents, those kept for scoring labels included.
-- Try: FROM layer_top_tokens(0, max_rows := 2)
CREATE OR REPLACE MACRO layer_top_tokens(of_layer, max_rows := 12) AS TABLE
SELECT
    t.neuron, t.polarity, t.token_id, v.token, t.n, t.n / nullif(v."count", 0) AS share,
    abs(t.sum) / nullif(v."count", 0) AS expected
FROM token_stats AS t
LEFT JOIN vocab AS v ON v.token_id = t.token_id
WHERE t.layer = of_layer
QUALIFY row_number() OVER (
    PARTITION BY t.neuron, t.polarity ORDER BY abs(t.sum) / nullif(v."count", 0) DESC NULLS LAST, t.n DESC, t.token_id
) <= max_rows
ORDER BY t.neuron, t.polarity DESC, expected DESC NULLS LAST, t.n DESC, t.token_id;
