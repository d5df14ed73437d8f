-- All that neurons write to each of some logits: the sum of |F|, of which an edge's share is taken.
-- of_tokens: token ids. Sums of floats are taken as integers of 2^-60, so they do not depend on threads.
-- Try: FROM circuit_logit_inputs([4])
CREATE OR REPLACE MACRO circuit_logit_inputs(of_tokens) AS TABLE
SELECT token_id,
       sum(round(weight_abs_sum::DOUBLE * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS abs_sum,
       count(*) AS n_neurons
FROM token_edges
WHERE kind = 'logit' AND token_id IN (SELECT unnest(of_tokens))
GROUP BY token_id
ORDER BY token_id;
