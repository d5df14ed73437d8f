-- Tokens that each of several neurons of one layer promotes (+1) and suppresses (-1), as neuron_logit_lens.
-- of_layer: the layer. of_neurons: list of its neurons. max_rows: tokens of each sign.
-- Try: FROM export_logits(0, [0, 1], 3)
CREATE OR REPLACE MACRO export_logits(of_layer, of_neurons, max_rows) AS TABLE
SELECT neuron, polarity, rank, token_id, value
FROM logit_lens
WHERE layer = of_layer AND neuron BETWEEN list_min(of_neurons) AND list_max(of_neurons)
  AND neuron IN (SELECT unnest(of_neurons)) AND rank < max_rows
ORDER BY neuron, polarity DESC, rank, token_id;
