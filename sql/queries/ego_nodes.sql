-- The neighbourhood of a set of neurons: every node that is reached over the strongest edges, hop by hop.
-- of_ids: packed ids (hop 0). hops: how far, at most 3. per_node: strongest edges (by sum of |F|) followed from each
-- node in each direction. of_direction: 'both', 'downstream' or 'upstream'.
-- hop = the fewest steps. The edges among these nodes: edges_between(ids, ids).
-- Written out hop by hop because a recursive query scans and hashes all edges in every step (3 s against 0.1 on 10M).
-- Try: FROM ego_nodes([10], hops := 2, per_node := 3)
CREATE OR REPLACE MACRO ego_nodes(of_ids, hops := 1, per_node := 10, of_direction := 'both') AS TABLE
WITH hop0 AS MATERIALIZED (
    SELECT DISTINCT unnest(of_ids)::INTEGER AS id
), hop1 AS MATERIALIZED (
    SELECT id FROM (
        (SELECT tgt AS id FROM edges
        WHERE hops >= 1 AND of_direction <> 'upstream' AND src IN (FROM hop0)
        QUALIFY row_number() OVER (PARTITION BY src ORDER BY weight_abs_sum DESC, tgt) <= per_node)
        UNION
        (SELECT src FROM edges_in
        WHERE hops >= 1 AND of_direction <> 'downstream' AND tgt IN (FROM hop0) AND rank <= per_node)
    ) ANTI JOIN hop0 USING (id)
), hop2 AS MATERIALIZED (
    SELECT id FROM (
        (SELECT tgt AS id FROM edges
        WHERE hops >= 2 AND of_direction <> 'upstream' AND src IN (FROM hop1)
        QUALIFY row_number() OVER (PARTITION BY src ORDER BY weight_abs_sum DESC, tgt) <= per_node)
        UNION
        (SELECT src FROM edges_in
        WHERE hops >= 2 AND of_direction <> 'downstream' AND tgt IN (FROM hop1) AND rank <= per_node)
    ) ANTI JOIN hop0 USING (id) ANTI JOIN hop1 USING (id)
), hop3 AS MATERIALIZED (
    SELECT id FROM (
        (SELECT tgt AS id FROM edges
        WHERE hops >= 3 AND of_direction <> 'upstream' AND src IN (FROM hop2)
        QUALIFY row_number() OVER (PARTITION BY src ORDER BY weight_abs_sum DESC, tgt) <= per_node)
        UNION
        (SELECT src FROM edges_in
        WHERE hops >= 3 AND of_direction <> 'downstream' AND tgt IN (FROM hop2) AND rank <= per_node)
    ) ANTI JOIN hop0 USING (id) ANTI JOIN hop1 USING (id) ANTI JOIN hop2 USING (id)
), reached AS (
    SELECT id, 0 AS hop FROM hop0
    UNION ALL SELECT id, 1 FROM hop1
    UNION ALL SELECT id, 2 FROM hop2
    UNION ALL SELECT id, 3 FROM hop3
)
SELECT r.hop, n.layer, n.neuron, n.label, n.cluster_path, r.id
FROM reached AS r
JOIN neurons AS n ON n.feature_id = r.id
WHERE CASE WHEN hops > 3 THEN error('ego_nodes goes at most 3 hops') ELSE true END
ORDER BY r.hop, n.layer, n.neuron;
