-- The neighbourhood of a set of neurons: every node that is reached over the strongest edges, hop by hop.
-- of_ids: packed ids (hop 0). hops: how far, at most 3. per_node: strongest edges (by sum of |F|) followed from each
-- node in each direction. of_direction: 'both', 'downstream' or 'upstream'.
-- hop = the fewest steps. The edges among these nodes: edges_between(ids, ids).
-- Written out hop by hop because a recursive query scans and hashes all edges in every step (3 s against 0.1 on 10M).
-- Try: FROM ego_nodes([10], hops := 2, per_node := 3)
CREATE OR REPLACE MACRO ego_nodes(of_ids, hops := 1, per_node := 10, of_direction := 'both') AS TABLE
WITH hop0 AS MATERIALIZED (
    SELECT DISTINCT unnest(of_ids)::INTEGER AS id
), out1 AS (
    SELECT e.tgt AS id
    FROM hop0 AS r JOIN edges AS e ON e.src = r.id
    WHERE hops >= 1 AND of_direction IN ('both', 'downstream')
    QUALIFY row_number() OVER (PARTITION BY r.id ORDER BY e.weight_abs_sum DESC, e.tgt) <= per_node
), pairs1 AS (
    SELECT i.src, i.tgt FROM hop0 AS r JOIN edges_in AS i ON i.tgt = r.id
    WHERE hops >= 1 AND of_direction IN ('both', 'upstream')
), in1 AS (
    SELECT e.src AS id
    FROM pairs1 AS p JOIN edges AS e ON e.src = p.src AND e.tgt = p.tgt
    QUALIFY row_number() OVER (PARTITION BY e.tgt ORDER BY e.weight_abs_sum DESC, e.src) <= per_node
), hop1 AS MATERIALIZED (
    SELECT id FROM (SELECT id FROM out1 UNION SELECT id FROM in1) ANTI JOIN hop0 USING (id)
), out2 AS (
    SELECT e.tgt AS id
    FROM hop1 AS r JOIN edges AS e ON e.src = r.id
    WHERE hops >= 2 AND of_direction IN ('both', 'downstream')
    QUALIFY row_number() OVER (PARTITION BY r.id ORDER BY e.weight_abs_sum DESC, e.tgt) <= per_node
), pairs2 AS (
    SELECT i.src, i.tgt FROM hop1 AS r JOIN edges_in AS i ON i.tgt = r.id
    WHERE hops >= 2 AND of_direction IN ('both', 'upstream')
), in2 AS (
    SELECT e.src AS id
    FROM pairs2 AS p JOIN edges AS e ON e.src = p.src AND e.tgt = p.tgt
    QUALIFY row_number() OVER (PARTITION BY e.tgt ORDER BY e.weight_abs_sum DESC, e.src) <= per_node
), hop2 AS MATERIALIZED (
    SELECT id FROM (SELECT id FROM out2 UNION SELECT id FROM in2) ANTI JOIN hop0 USING (id) ANTI JOIN hop1 USING (id)
), out3 AS (
    SELECT e.tgt AS id
    FROM hop2 AS r JOIN edges AS e ON e.src = r.id
    WHERE hops >= 3 AND of_direction IN ('both', 'downstream')
    QUALIFY row_number() OVER (PARTITION BY r.id ORDER BY e.weight_abs_sum DESC, e.tgt) <= per_node
), pairs3 AS (
    SELECT i.src, i.tgt FROM hop2 AS r JOIN edges_in AS i ON i.tgt = r.id
    WHERE hops >= 3 AND of_direction IN ('both', 'upstream')
), in3 AS (
    SELECT e.src AS id
    FROM pairs3 AS p JOIN edges AS e ON e.src = p.src AND e.tgt = p.tgt
    QUALIFY row_number() OVER (PARTITION BY e.tgt ORDER BY e.weight_abs_sum DESC, e.src) <= per_node
), hop3 AS MATERIALIZED (
    SELECT id FROM (SELECT id FROM out3 UNION SELECT id FROM in3) ANTI JOIN hop0 USING (id) ANTI JOIN hop1 USING (id) ANTI JOIN hop2 USING (id)
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
