-- The attribution graphs that contain all of some neurons, with prompt and targets, and how strongly they take part.
-- of_ids: packed ids; every one must be a node of the graph. max_rows: limit; NULL for all.
-- targets: tokens that were explained; positions: nodes of these neurons (one a token position); relevance: sum of
-- their R; share: sum of |R| as a part of |metric_value|; weakest: the smallest |R| among the neurons.
-- Ordered by weakest, then by graph; NULL where the relevance was not recorded.
-- Try: FROM graphs_of_neurons([0, 10], max_rows := 5)
CREATE OR REPLACE MACRO graphs_of_neurons(of_ids, max_rows := 20) AS TABLE
WITH wanted AS (
    SELECT DISTINCT unnest(of_ids)::BIGINT AS id
), keys AS MATERIALIZED (
    SELECT n.layer, n.neuron FROM neurons AS n SEMI JOIN wanted AS w ON n.feature_id = w.id
), inside AS MATERIALIZED (
    SELECT m.graph_id, sum(m.positions)::BIGINT AS positions, sum(m.relevance ORDER BY m.layer, m.neuron) AS relevance,
        sum(abs(m.relevance) ORDER BY m.layer, m.neuron) AS size, min(abs(m.relevance)) AS weakest
    FROM neuron_graphs AS m JOIN keys AS k ON m.layer = k.layer AND m.neuron = k.neuron
    GROUP BY m.graph_id
    HAVING count(*) = (SELECT count(*) FROM keys)
    ORDER BY weakest DESC NULLS LAST, m.graph_id
    LIMIT max_rows
), spelled AS (
    SELECT t.graph_id, list(coalesce(v.token, t.token_id::VARCHAR) ORDER BY t.place) AS targets
    FROM (
        SELECT g.graph_id, unnest(g.targets) AS token_id, generate_subscripts(g.targets, 1) AS place
        FROM graphs AS g SEMI JOIN inside AS i ON g.graph_id = i.graph_id
    ) AS t LEFT JOIN vocab AS v ON v.token_id = t.token_id
    GROUP BY t.graph_id
)
SELECT
    i.graph_id, g.prompt, s.targets, i.positions, i.relevance, i.size / nullif(abs(g.metric_value), 0) AS share, i.weakest,
    g.metric, g.metric_value, g.target_position, g.n_nodes, g.source_file
FROM inside AS i
LEFT JOIN graphs AS g ON g.graph_id = i.graph_id
LEFT JOIN spelled AS s ON s.graph_id = i.graph_id
ORDER BY i.weakest DESC NULLS LAST, i.graph_id;
