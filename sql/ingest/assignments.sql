-- Mended members of an assignment file (temporary table assignment_paths) -> partitions. A path ends in the finest
-- module that the neuron shares with another: modules of one neuron fall away, and who is left without one has no row.
WITH levels AS (
    SELECT layer, neuron, flow, membership, array_to_string(parts[1:level], '.') AS path
    FROM assignment_paths, unnest(range(1, len(parts) + 1)) AS l(level)
), shared AS (
    SELECT path FROM levels GROUP BY path HAVING count(*) > 1
)
SELECT $method AS method, $method AS clustering, '{}' AS parameters, layer, neuron, arg_max(path, len(path)) AS cluster_path,
       any_value(flow) AS flow, any_value(membership) AS membership
FROM levels SEMI JOIN shared USING (path)
GROUP BY layer, neuron
ORDER BY layer, neuron
