-- Tokens that fire each of several neurons of one layer strongly, in the order of neuron_top_tokens.
-- of_layer: the layer. of_neurons: list of its neurons. of_signs: list of 1 and -1. max_rows: tokens of each sign.
-- n = strong firings on the token; mean = mean activation of these.
-- Try: FROM export_tokens(0, [0, 1], [1, -1], 3)
CREATE OR REPLACE MACRO export_tokens(of_layer, of_neurons, of_signs, max_rows) AS TABLE
SELECT t.neuron, t.polarity, t.token_id, t.n, t.sum / t.n AS mean
FROM token_stats AS t
LEFT JOIN vocab AS v ON v.token_id = t.token_id
WHERE t.layer = of_layer AND t.neuron BETWEEN list_min(of_neurons) AND list_max(of_neurons)
  AND t.neuron IN (SELECT unnest(of_neurons)) AND list_contains(of_signs, t.polarity)
QUALIFY row_number() OVER (
    PARTITION BY t.neuron, t.polarity
    ORDER BY abs(t.sum) / nullif(v."count", 0) DESC NULLS LAST, t.n DESC, t.token_id) <= max_rows
ORDER BY t.neuron, t.polarity DESC, abs(t.sum) / nullif(v."count", 0) DESC NULLS LAST, t.n DESC, t.token_id;
