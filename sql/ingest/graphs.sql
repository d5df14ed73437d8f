-- Attribution-graph shards -> graphs. explained_neurons is the share of relevance that edges from the graph's own
-- neurons account for: over all nodes and the metric, sum of sign(R) * (flow from listed neurons) / sum of |R|.
-- Sums are taken as integers of 2^-60, so they do not depend on order or threads.
WITH inflow AS (
    SELECT graph_id, tgt_layer AS layer, tgt_neuron AS neuron, tgt_position AS position,
           sum(round(weight * 1152921504606846976)::HUGEINT) AS listed
    FROM shard_graph_edges GROUP BY ALL
), targets AS (
    SELECT n.graph_id, n.relevance AS needed, coalesce(i.listed, 0)::HUGEINT AS listed
    FROM shard_graph_nodes n LEFT JOIN inflow i USING (graph_id, layer, neuron, position)
    UNION ALL
    SELECT g.graph_id, g.metric_value, coalesce(sum(round(n.direct * 1152921504606846976)::HUGEINT), 0)::HUGEINT
    FROM shard_graphs g LEFT JOIN shard_graph_nodes n USING (graph_id) GROUP BY g.graph_id, g.metric_value
), shares AS (
    SELECT graph_id, sum(sign(needed)::HUGEINT * listed)::DOUBLE
           / nullif(sum(round(abs(needed) * 1152921504606846976)::HUGEINT)::DOUBLE, 0) AS explained_neurons
    FROM targets GROUP BY graph_id
)
SELECT shard_graphs.* EXCLUDE (shard), shares.explained_neurons
FROM shard_graphs LEFT JOIN shares USING (graph_id)
ORDER BY graph_id
