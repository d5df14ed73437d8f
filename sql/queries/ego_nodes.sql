-- The neighbourhood of a set of neurons: every node that is reached over the strongest edges, hop by hop.
-- of_ids: packed ids (hop 0). hops: how far. per_node: strongest edges (by sum of |F|) followed from each node in each
-- direction. of_direction: 'both', 'downstream' or 'upstream'.
-- hop = the fewest steps. The edges among these nodes: edges_between(ids, ids).
-- Try: FROM ego_nodes([10], hops := 2, per_node := 3)
CREATE OR REPLACE MACRO ego_nodes(of_ids, hops := 1, per_node := 10, of_direction := 'both') AS TABLE
WITH RECURSIVE reached(id, hop) AS (
    SELECT unnest(of_ids)::INTEGER, 0
    UNION
    SELECT other, hop + 1 FROM (
        SELECT r.hop, e.tgt AS other,
            row_number() OVER (PARTITION BY r.id ORDER BY e.weight_abs_sum DESC, e.tgt) AS place
        FROM reached AS r JOIN edges AS e ON e.src = r.id
        WHERE r.hop < hops AND of_direction IN ('both', 'downstream')
        UNION ALL
        SELECT r.hop, e.src AS other,
            row_number() OVER (PARTITION BY r.id ORDER BY e.weight_abs_sum DESC, e.src) AS place
        FROM reached AS r
        JOIN edges_in AS i ON i.tgt = r.id
        JOIN edges AS e ON e.src = i.src AND e.tgt = i.tgt
        WHERE r.hop < hops AND of_direction IN ('both', 'upstream')
    )
    WHERE place <= per_node
), nearest AS (
    SELECT id, min(hop) AS hop FROM reached GROUP BY id
)
SELECT r.hop, n.layer, n.neuron, n.label, n.cluster_path, r.id
FROM nearest AS r
JOIN neurons AS n ON n.feature_id = r.id
ORDER BY r.hop, n.layer, n.neuron;
