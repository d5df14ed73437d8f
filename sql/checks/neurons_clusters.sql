-- A neuron's path is a module of clusters, and its part columns and depth agree with it.
SELECT n.layer, n.neuron, n.cluster_path, n.top_cluster, n.sub_module, n.subsub_module, n.hierarchy_depth
FROM neurons AS n LEFT JOIN clusters AS c ON c.cluster_path = n.cluster_path
WHERE (n.cluster_path IS NOT NULL AND c.cluster_path IS NULL)
   OR n.top_cluster IS DISTINCT FROM try_cast(split_part(n.cluster_path, '.', 1) AS INTEGER)
   OR n.sub_module IS DISTINCT FROM try_cast(nullif(split_part(n.cluster_path, '.', 2), '') AS INTEGER)
   OR n.subsub_module IS DISTINCT FROM try_cast(nullif(split_part(n.cluster_path, '.', 3), '') AS INTEGER)
   OR n.hierarchy_depth IS DISTINCT FROM len(string_split(n.cluster_path, '.'))
ORDER BY n.layer, n.neuron;
