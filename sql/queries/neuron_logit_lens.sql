-- Tokens that one neuron's output direction promotes (+1) and suppresses (-1) when its activation is positive.
-- of_layer, of_neuron: the neuron. max_rows: tokens of each sign; NULL for all.
-- value = logit per unit of activation with the final norm's weight folded in, before its scale.
-- Try: FROM neuron_logit_lens(0, 0, max_rows := 3)
CREATE OR REPLACE MACRO neuron_logit_lens(of_layer, of_neuron, max_rows := 10) AS TABLE
SELECT l.polarity, l.rank, l.token_id, v.token, l.value
FROM logit_lens AS l
LEFT JOIN vocab AS v ON v.token_id = l.token_id
WHERE l.layer = of_layer AND l.neuron = of_neuron AND (max_rows IS NULL OR l.rank < max_rows)
ORDER BY l.polarity DESC, l.rank, l.token_id;
