-- Modules of atlas a with the module of atlas b that shares most of their members, then modules that only b has.
-- Both files are attached, as a and b:  ATTACH 'A.duckdb' AS a (READ_ONLY); ATTACH 'B.duckdb' AS b (READ_ONLY);
-- of_level: 1 = top modules, 2 = their parts ...; NULL = finest. everything: also modules with the same members.
-- max_rows: limit; NULL for all.
-- jaccard = shared members / members of either. moved = members of module_a that are not in module_b.
-- change: same (jaccard 1, whatever the path), changed, gone (no member is in a module of b), new (a module of b that is
-- no module's best match; module_a is then its own best match, NULL when it has none).
-- Ordered by moved, most first, new modules by size after them.
-- Try: FROM diff_modules(everything := true)
CREATE OR REPLACE MACRO diff_modules(of_level := NULL, everything := false, max_rows := NULL) AS TABLE
WITH first_side AS (
    SELECT feature_id, array_to_string(string_split(cluster_path, '.')[1:coalesce(of_level, 99)], '.') AS path
    FROM a.neurons WHERE cluster_path IS NOT NULL
), second_side AS (
    SELECT feature_id, array_to_string(string_split(cluster_path, '.')[1:coalesce(of_level, 99)], '.') AS path
    FROM b.neurons WHERE cluster_path IS NOT NULL
), sizes_a AS (
    SELECT path, count(*) AS members FROM first_side GROUP BY path
), sizes_b AS (
    SELECT path, count(*) AS members FROM second_side GROUP BY path
), pairs AS (
    SELECT x.path AS path_a, y.path AS path_b, count(*) AS shared
    FROM first_side AS x JOIN second_side AS y USING (feature_id) GROUP BY ALL
), overlap AS (
    SELECT p.*, p.shared / (s.members + t.members - p.shared) AS jaccard
    FROM pairs AS p JOIN sizes_a AS s ON s.path = p.path_a JOIN sizes_b AS t ON t.path = p.path_b
), best_of_a AS (
    SELECT * FROM overlap QUALIFY row_number() OVER (PARTITION BY path_a ORDER BY jaccard DESC, path_b) = 1
), best_of_b AS (
    SELECT * FROM overlap QUALIFY row_number() OVER (PARTITION BY path_b ORDER BY jaccard DESC, path_a) = 1
), matched AS (
    SELECT
        CASE WHEN p.path_b IS NULL THEN 'gone' WHEN p.jaccard = 1 THEN 'same' ELSE 'changed' END AS change,
        s.path AS module_a, p.path_b AS module_b, coalesce(p.shared, 0) AS shared, coalesce(p.jaccard, 0) AS jaccard,
        s.members - coalesce(p.shared, 0) AS moved
    FROM sizes_a AS s LEFT JOIN best_of_a AS p ON p.path_a = s.path
    UNION ALL
    SELECT 'new', p.path_a, t.path, coalesce(p.shared, 0), coalesce(p.jaccard, 0), NULL
    FROM sizes_b AS t LEFT JOIN best_of_b AS p ON p.path_b = t.path
    WHERE t.path NOT IN (SELECT path_b FROM best_of_a)
)
SELECT
    m.change, m.module_a, ca.label AS label_a, s.members AS size_a, m.module_b, cb.label AS label_b,
    t.members AS size_b, m.shared, m.jaccard, m.moved
FROM matched AS m
LEFT JOIN sizes_a AS s ON s.path = m.module_a
LEFT JOIN sizes_b AS t ON t.path = m.module_b
LEFT JOIN a.clusters AS ca ON ca.cluster_path = m.module_a
LEFT JOIN b.clusters AS cb ON cb.cluster_path = m.module_b
WHERE everything OR m.change <> 'same'
ORDER BY m.moved DESC NULLS LAST, t.members DESC, m.module_a, m.module_b
LIMIT max_rows;
