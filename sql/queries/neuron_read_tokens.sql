-- Tokens that one neuron's input rows read most strongly, by weights alone: gate (what opens it) and up (what gives the
-- activation its sign: +1 positive, -1 negative).
-- of_layer, of_neuron: the neuron. max_rows: tokens of each part and sign; NULL for all.
-- value = share of the token's embedding in the pre-activation, through the norm before the MLP.
-- Try: FROM neuron_read_tokens(0, 0, max_rows := 3)
CREATE OR REPLACE MACRO neuron_read_tokens(of_layer, of_neuron, max_rows := 10) AS TABLE
SELECT r.part, r.polarity, r.rank, r.token_id, v.token, r.value
FROM read_tokens AS r
LEFT JOIN vocab AS v ON v.token_id = r.token_id
WHERE r.layer = of_layer AND r.neuron = of_neuron AND (max_rows IS NULL OR r.rank < max_rows)
ORDER BY r.part, r.polarity DESC, r.rank, r.token_id;
