-- Tokens that each neuron of one layer promotes and suppresses, one row a neuron and sign.
-- of_layer: the layer. max_rows: tokens of each sign; NULL for all.
-- tokens and token_values are in step, strongest first; values as in logit_lens.
-- Try: FROM layer_logit_lens(0, max_rows := 3)
CREATE OR REPLACE MACRO layer_logit_lens(of_layer, max_rows := 15) AS TABLE
SELECT
    l.neuron, l.polarity,
    list(coalesce(v.token, '<' || l.token_id || '>') ORDER BY l.rank) AS tokens,
    list(l.value ORDER BY l.rank) AS token_values
FROM logit_lens AS l
LEFT JOIN vocab AS v ON v.token_id = l.token_id
WHERE l.layer = of_layer AND (max_rows IS NULL OR l.rank < max_rows)
GROUP BY l.neuron, l.polarity
ORDER BY l.neuron, l.polarity DESC;
