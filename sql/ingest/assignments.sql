-- Good members of an assignment file (temporary table assignment_lines) -> partitions. A path ends in the finest module
-- that the neuron shares with another: where all paths differ, their last part is the neuron's own rank in its module
-- and falls away, and so do modules of one neuron; who is left without a module has no row.
WITH good AS (
    SELECT layer, neuron, flow, string_split(path, '.') AS parts FROM assignment_lines WHERE fault IS NULL
), ranked AS (
    SELECT count(DISTINCT path) = count(*) AND count(*) > 1 AS unlike FROM assignment_lines WHERE fault IS NULL
), cut AS (
    SELECT layer, neuron, flow, CASE WHEN unlike THEN parts[1:len(parts) - 1] ELSE parts END AS parts FROM good, ranked
), levels AS (
    SELECT layer, neuron, flow, array_to_string(parts[1:level], '.') AS path
    FROM cut, unnest(range(1, len(parts) + 1)) AS l(level)
), shared AS (
    SELECT path FROM levels GROUP BY path HAVING count(*) > 1
)
SELECT $method AS method, $method AS clustering, '{}' AS parameters, layer, neuron, arg_max(path, len(path)) AS cluster_path,
       any_value(flow) AS flow
FROM levels SEMI JOIN shared USING (path)
GROUP BY layer, neuron
ORDER BY layer, neuron
