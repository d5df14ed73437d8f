-- The modules of the same level that a module exchanges most weight with.
-- of_path: its path. max_rows: limit; NULL for all.
-- weight_out / weight_in = sum of mean |F| over the edges to / from the neighbour (the unit of clusters.outgoing_weight);
-- cluster_path is NULL for neurons outside every module of that level. Ordered by weight_out + weight_in.
-- Sums of floats are taken as integers of 2^-60, so they do not depend on threads.
-- Try: FROM cluster_neighbours('1', max_rows := 5)
CREATE OR REPLACE MACRO cluster_neighbours(of_path, max_rows := 20) AS TABLE
WITH modules AS (
    SELECT feature_id::INTEGER AS id,
        CASE WHEN len(string_split(cluster_path, '.')) >= len(string_split(of_path, '.'))
             THEN array_to_string(string_split(cluster_path, '.')[1:len(string_split(of_path, '.'))], '.') END AS module
    FROM neurons
), members AS (
    SELECT id FROM modules WHERE module = of_path
), crossings AS (
    SELECT e.tgt AS id, e.weight_abs_sum::DOUBLE / e.count AS w_out, NULL::DOUBLE AS w_in
    FROM edges AS e SEMI JOIN members AS m ON e.src = m.id
    UNION ALL
    SELECT e.src AS id, NULL::DOUBLE AS w_out, e.weight_abs_sum::DOUBLE / e.count AS w_in
    FROM edges AS e SEMI JOIN members AS m ON e.tgt = m.id
), grouped AS (
    SELECT
        o.module, coalesce(sum(round(x.w_out * 1152921504606846976)::HUGEINT) / 1152921504606846976, 0) AS weight_out,
        coalesce(sum(round(x.w_in * 1152921504606846976)::HUGEINT) / 1152921504606846976, 0) AS weight_in,
        count(x.w_out) AS edges_out, count(x.w_in) AS edges_in
    FROM crossings AS x LEFT JOIN modules AS o ON o.id = x.id
    WHERE o.module IS DISTINCT FROM of_path
    GROUP BY o.module
)
SELECT g.module AS cluster_path, c.label, c.size, g.weight_out, g.weight_in, g.edges_out, g.edges_in
FROM grouped AS g
LEFT JOIN clusters AS c ON c.cluster_path = g.module
ORDER BY g.weight_out + g.weight_in DESC, g.module
LIMIT max_rows;
