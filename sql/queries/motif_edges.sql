-- The edges that motifs are counted over: those among some neurons, or the strongest of the atlas.
-- of_ids: packed ids of both ends; NULL for the strongest edges of all (edges_top). at_least_count: fewest
-- observations. max_rows: how many, by the sum of |F|; NULL for all. sign: of the mean F; edges of mean 0 are left out.
-- Ordered by src, tgt.
-- Try: FROM motif_edges(NULL, max_rows := 3)
CREATE OR REPLACE MACRO motif_edges(of_ids, at_least_count := 1, max_rows := 20000) AS TABLE
WITH wanted AS MATERIALIZED (
    SELECT DISTINCT unnest(of_ids)::INTEGER AS id
), chosen AS (
    SELECT e.src, e.tgt, e.weight_abs_sum, e.weight_sum
    FROM edges AS e SEMI JOIN wanted AS s ON e.src = s.id SEMI JOIN wanted AS t ON e.tgt = t.id
    WHERE e.count >= at_least_count
    UNION ALL
    SELECT e.src, e.tgt, e.weight_abs_sum, e.weight_sum
    FROM edges AS e JOIN edges_top AS r ON e.src = r.src AND e.tgt = r.tgt
    WHERE of_ids IS NULL AND e.count >= at_least_count
)
SELECT src, tgt, CASE WHEN weight_sum < 0 THEN -1 ELSE 1 END::TINYINT AS sign
FROM (FROM chosen WHERE weight_sum <> 0 AND src <> tgt ORDER BY weight_abs_sum DESC, src, tgt LIMIT max_rows)
ORDER BY src, tgt;
