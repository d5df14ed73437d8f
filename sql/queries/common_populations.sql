-- By layer, the neurons that have an outgoing edge (senders) and those that have an incoming one (receivers): the urns of
-- the null models of common_inputs and common_outputs. Above a count of 1 it reads all edges.
-- at_least_count: fewest observations of an edge; edges below it do not exist for this question.
-- Try: FROM common_populations(at_least_count := 2)
CREATE OR REPLACE MACRO common_populations(at_least_count := 1) AS TABLE
WITH sent AS (
    SELECT id FROM edge_totals WHERE at_least_count <= 1 AND n_out > 0
    UNION ALL (SELECT src FROM edges WHERE at_least_count > 1 AND count >= at_least_count GROUP BY src)
), received AS (
    SELECT id FROM edge_totals WHERE at_least_count <= 1 AND n_in > 0
    UNION ALL (SELECT tgt FROM edges WHERE at_least_count > 1 AND count >= at_least_count GROUP BY tgt)
)
SELECT n.layer, count(s.id) AS senders, count(r.id) AS receivers
FROM neurons AS n
LEFT JOIN sent AS s ON s.id = n.feature_id
LEFT JOIN received AS r ON r.id = n.feature_id
GROUP BY n.layer
ORDER BY n.layer;
