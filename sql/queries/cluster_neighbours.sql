-- The modules of the same level that a module exchanges most weight with.
-- of_path: its path. max_rows: limit; NULL for all.
-- weight_out / weight_in = sum of mean |F| over the edges to / from the neighbour (the unit of clusters.outgoing_weight);
-- cluster_path is NULL for neurons outside every module of that level. Ordered by weight_out + weight_in.
-- Summed for each partner first, so that only the partners' paths are taken apart; its two scans of 84M edges
-- take 0.2 s for a module of 200 neurons and 0.8 s for one of 20,000. Weights are whole numbers of 2^-44 as in clusters: they add up exactly.
-- Try: FROM cluster_neighbours('1', max_rows := 5)
CREATE OR REPLACE MACRO cluster_neighbours(of_path, max_rows := 20) AS TABLE
WITH members AS MATERIALIZED (
    SELECT feature_id::INTEGER AS id FROM neurons WHERE cluster_path = of_path OR starts_with(cluster_path, of_path || '.')
), crossings AS (
    SELECT e.tgt AS id, count(*) AS n_out, 0 AS n_in,
        sum(round(e.weight_abs_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) AS w_out, 0 AS w_in
    FROM edges AS e SEMI JOIN members AS m ON e.src = m.id GROUP BY e.tgt
    UNION ALL
    SELECT e.src AS id, 0 AS n_out, count(*) AS n_in, 0 AS w_out,
        sum(round(e.weight_abs_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) AS w_in
    FROM edges AS e SEMI JOIN members AS m ON e.tgt = m.id GROUP BY e.src
), partners AS (
    SELECT n.cluster_path AS path, sum(x.n_out) AS n_out, sum(x.n_in) AS n_in, sum(x.w_out) AS w_out, sum(x.w_in) AS w_in
    FROM crossings AS x ANTI JOIN members AS m ON m.id = x.id LEFT JOIN neurons AS n ON n.feature_id = x.id
    GROUP BY n.cluster_path
), grouped AS (
    SELECT
        CASE WHEN len(string_split(path, '.')) >= len(string_split(of_path, '.'))
             THEN array_to_string(string_split(path, '.')[1:len(string_split(of_path, '.'))], '.') END AS module,
        sum(w_out) / 17592186044416 AS weight_out, sum(w_in) / 17592186044416 AS weight_in,
        sum(n_out)::BIGINT AS edges_out, sum(n_in)::BIGINT AS edges_in
    FROM partners GROUP BY module
)
SELECT g.module AS cluster_path, c.label, c.size, g.weight_out, g.weight_in, g.edges_out, g.edges_in
FROM grouped AS g
LEFT JOIN clusters AS c ON c.cluster_path = g.module
ORDER BY g.weight_out + g.weight_in DESC, g.module
LIMIT max_rows;
