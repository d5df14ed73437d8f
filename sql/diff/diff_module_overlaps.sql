-- How many neurons each module of atlas a shares with each of atlas b: the table that agreement is computed from.
-- Both files are attached, as a and b:  ATTACH 'A.duckdb' AS a (READ_ONLY); ATTACH 'B.duckdb' AS b (READ_ONLY);
-- of_level: 1 = top modules, 2 = their parts ...; NULL = finest.
-- module_a or module_b is NULL for neurons that are in a module of one side only.
-- Ordered by the two paths.
-- Try: FROM diff_module_overlaps(of_level := 1)
CREATE OR REPLACE MACRO diff_module_overlaps(of_level := NULL) AS TABLE
SELECT
    array_to_string(string_split(x.cluster_path, '.')[1:coalesce(of_level, 99)], '.') AS module_a,
    array_to_string(string_split(y.cluster_path, '.')[1:coalesce(of_level, 99)], '.') AS module_b,
    count(*) AS shared
FROM a.neurons AS x FULL JOIN b.neurons AS y ON x.feature_id = y.feature_id
WHERE x.cluster_path IS NOT NULL OR y.cluster_path IS NOT NULL
GROUP BY ALL
ORDER BY module_a, module_b;
