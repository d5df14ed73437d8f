-- Modules as nodes, all pairs with an edge between them: only what is counted, without what chance would send.
-- of_level: as in quotient. max_rows: limit; NULL for all. Columns as in quotient.
-- Try: FROM quotient_pairs(of_level := 1, max_rows := 5)
CREATE OR REPLACE MACRO quotient_pairs(of_level := 1, max_rows := NULL) AS TABLE
WITH paths AS MATERIALIZED (
    SELECT path, row_number() OVER (ORDER BY path NULLS LAST)::INTEGER AS k
    FROM (SELECT DISTINCT array_to_string(string_split(cluster_path, '.')[1:of_level], '.') AS path FROM neurons)
), places AS MATERIALIZED (
    SELECT n.feature_id::INTEGER AS id, p.k
    FROM neurons AS n
    JOIN paths AS p ON p.path IS NOT DISTINCT FROM array_to_string(string_split(n.cluster_path, '.')[1:of_level], '.')
), pairs AS (
    SELECT s.k AS i, t.k AS j, count(*) AS n_edges, sum(e.count)::BIGINT AS observations,
        sum(round(e.weight_abs_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) / 17592186044416 AS weight,
        sum(round(e.weight_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) / 17592186044416 AS signed_weight
    FROM edges AS e JOIN places AS s ON s.id = e.src JOIN places AS t ON t.id = e.tgt
    GROUP BY s.k, t.k
)
SELECT s.path AS src_cluster, t.path AS tgt_cluster, c.n_edges, c.observations, c.weight, c.signed_weight
FROM pairs AS c JOIN paths AS s ON s.k = c.i JOIN paths AS t ON t.k = c.j
ORDER BY c.i, c.j
LIMIT max_rows;
