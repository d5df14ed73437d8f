-- Nodes of the graphs -> which neurons each graph contains (positions dropped).
SELECT layer, neuron, graph_id, count(*)::INTEGER AS positions, sum(relevance ORDER BY position) AS relevance
FROM shard_graph_nodes
GROUP BY layer, neuron, graph_id
ORDER BY layer, neuron, graph_id
