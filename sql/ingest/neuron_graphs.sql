-- Nodes of the graphs -> which neurons each graph contains (positions dropped). explained is the mean over positions
-- of the node's explained share, weighted by |relevance|.
SELECT layer, neuron, graph_id, count(*)::INTEGER AS positions, sum(relevance ORDER BY position) AS relevance,
       sum(abs(relevance) * explained ORDER BY position)
           / nullif(sum(abs(relevance) ORDER BY position) FILTER (explained IS NOT NULL), 0) AS explained
FROM shard_graph_nodes
GROUP BY layer, neuron, graph_id
ORDER BY layer, neuron, graph_id
