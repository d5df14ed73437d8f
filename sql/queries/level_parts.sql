-- Every module of one level with its parts, the largest first; a module without parts is one row with part_path NULL.
-- of_level: 1 = top. max_rows: parts of each module. at_least_size: fewest neurons of a module.
-- Try: FROM level_parts(1)
CREATE OR REPLACE MACRO level_parts(of_level, max_rows := 10, at_least_size := 2) AS TABLE
SELECT
    c.cluster_path AS module_path, c.size AS module_size, c.layer_min AS first_layer, c.layer_max AS last_layer,
    p.cluster_path AS part_path, p.size AS part_size, p.label AS part_name
FROM clusters AS c
LEFT JOIN clusters AS p ON p.level = c.level + 1
    AND array_to_string(string_split(p.cluster_path, '.')[1:of_level], '.') = c.cluster_path
WHERE c.level = of_level AND c.size >= at_least_size
QUALIFY row_number() OVER (PARTITION BY c.cluster_path ORDER BY p.size DESC, p.cluster_path) <= max_rows
ORDER BY c.cluster_path, p.size DESC, p.cluster_path;
