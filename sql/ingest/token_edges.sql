-- Observations of direct edges embedding -> neuron and neuron -> logit -> their statistics (exact sums as in edges).
SELECT kind, token_id, layer, neuron, count(*)::INTEGER AS count, count(DISTINCT graph_id)::INTEGER AS n_graphs,
       (sum(round(weight * 17592186044416)::BIGINT)::DOUBLE / 17592186044416)::FLOAT AS weight_sum,
       (sum(round(abs(weight) * 17592186044416)::BIGINT)::DOUBLE / 17592186044416)::FLOAT AS weight_abs_sum,
       (sum(round(weight * weight * 1152921504606846976)::HUGEINT)::DOUBLE / 1152921504606846976)::FLOAT
           AS weight_sq_sum,
       min(weight)::FLOAT AS weight_min, max(weight)::FLOAT AS weight_max
FROM shard_graph_token_edges
GROUP BY kind, token_id, layer, neuron
HAVING count(*) >= $min_count
ORDER BY kind, layer, neuron, token_id
