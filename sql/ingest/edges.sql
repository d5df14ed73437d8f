-- Observations of one source layer -> edge statistics. Sums are exact: weights are rounded to the quantum 2^-44,
-- squares to 2^-60, and added as integers, so the order of graphs, shards and threads cannot change one bit.
-- The caller refuses |weight| >= 2^18 before (64-bit range).
SELECT (src_layer * $d_mlp + src_neuron)::INTEGER AS src, (tgt_layer * $d_mlp + tgt_neuron)::INTEGER AS tgt,
       src_layer, src_neuron, count(*)::INTEGER AS count, count(DISTINCT graph_id)::INTEGER AS n_graphs,
       (sum(round(weight * 17592186044416)::BIGINT)::DOUBLE / 17592186044416)::FLOAT AS weight_sum,
       (sum(round(abs(weight) * 17592186044416)::BIGINT)::DOUBLE / 17592186044416)::FLOAT AS weight_abs_sum,
       (sum(round(weight * weight * 1152921504606846976)::HUGEINT)::DOUBLE / 1152921504606846976)::FLOAT
           AS weight_sq_sum,
       min(weight)::FLOAT AS weight_min, max(weight)::FLOAT AS weight_max
FROM shard_graph_edges
WHERE src_layer = $src_layer
GROUP BY src_layer, src_neuron, tgt_layer, tgt_neuron
HAVING count(*) >= $min_count
ORDER BY src, tgt
