-- What embeddings bring to each neuron in a range of layers: sums of |F| and of F over all tokens.
-- of_first, of_last: layers. at_least_count: fewest observations for the columns strong_*, which leave the rest out.
-- Sums of floats are taken as integers of 2^-60, so they do not depend on threads.
-- Try: FROM circuit_token_inputs(0, 1)
CREATE OR REPLACE MACRO circuit_token_inputs(of_first, of_last, at_least_count := 1) AS TABLE
SELECT layer, neuron,
       sum(round(weight_abs_sum::DOUBLE * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS abs_sum,
       sum(round(weight_sum::DOUBLE * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS signed_sum,
       coalesce(sum(round(weight_abs_sum::DOUBLE * 1152921504606846976)::HUGEINT) FILTER ("count" >= at_least_count), 0)
           / 1152921504606846976 AS strong_abs_sum,
       coalesce(sum(round(weight_sum::DOUBLE * 1152921504606846976)::HUGEINT) FILTER ("count" >= at_least_count), 0)
           / 1152921504606846976 AS strong_signed_sum
FROM token_edges
WHERE kind = 'embedding' AND layer BETWEEN of_first AND of_last
GROUP BY layer, neuron
ORDER BY layer, neuron;
