-- A module's size is its number of neurons, and its parts together are no larger than it; each path once.
WITH prefixes AS (
    SELECT array_to_string(string_split(cluster_path, '.')[1:depth], '.') AS cluster_path
    FROM neurons, unnest(range(1, len(string_split(cluster_path, '.')) + 1)) AS u(depth)
    WHERE cluster_path IS NOT NULL
), members AS (
    SELECT cluster_path, count(*) AS n FROM prefixes GROUP BY cluster_path
), parts AS (
    SELECT array_to_string(string_split(cluster_path, '.')[1:level - 1], '.') AS cluster_path, sum(size) AS n
    FROM clusters WHERE level > 1 GROUP BY ALL
)
SELECT coalesce(c.cluster_path, m.cluster_path) AS cluster_path, c.size, m.n AS found, 'size is not its members' AS fault
FROM clusters AS c FULL JOIN members AS m ON m.cluster_path = c.cluster_path
WHERE c.size IS DISTINCT FROM m.n
UNION ALL
SELECT c.cluster_path, c.size, p.n, 'parts are larger than the module' AS fault
FROM clusters AS c JOIN parts AS p ON p.cluster_path = c.cluster_path
WHERE p.n > c.size
UNION ALL
SELECT cluster_path, NULL, count(*), 'several rows' AS fault
FROM clusters GROUP BY cluster_path HAVING count(*) > 1
ORDER BY ALL;
