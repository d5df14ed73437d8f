-- Paths are modules, never a leaf's own rank: level = number of parts, the parent exists, the part columns agree.
SELECT cluster_path, level, top_cluster, sub_module, subsub_module
FROM clusters AS c
WHERE cluster_path IS NULL OR level IS DISTINCT FROM len(string_split(cluster_path, '.'))
   OR top_cluster IS DISTINCT FROM try_cast(split_part(cluster_path, '.', 1) AS INTEGER)
   OR sub_module IS DISTINCT FROM try_cast(nullif(split_part(cluster_path, '.', 2), '') AS INTEGER)
   OR subsub_module IS DISTINCT FROM try_cast(nullif(split_part(cluster_path, '.', 3), '') AS INTEGER)
   OR (level > 1 AND array_to_string(string_split(cluster_path, '.')[1:level - 1], '.')
       NOT IN (SELECT k.cluster_path FROM clusters AS k WHERE k.cluster_path IS NOT NULL))
ORDER BY cluster_path;
