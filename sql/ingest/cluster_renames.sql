-- Names that modules had and have by their members (temporary tables old_names, new_names) -> clusters.label. A module
-- that was named otherwise keeps its name.
UPDATE clusters SET label = n.name FROM old_names o, new_names n
WHERE o.path = clusters.cluster_path AND n.path = clusters.cluster_path
  AND o.name IS NOT DISTINCT FROM clusters.label AND n.name IS DISTINCT FROM o.name
