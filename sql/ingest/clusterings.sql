-- One run's rows of partitions, counted -> its row of clusterings.
WITH levels AS (
    SELECT DISTINCT array_to_string(parts[1:level], '.') AS path, level
    FROM (SELECT string_split(cluster_path, '.') AS parts FROM partitions WHERE clustering = $clustering),
        unnest(range(1, len(parts) + 1)) AS l(level)
)
SELECT $clustering AS clustering, $method AS method, $parameters AS parameters, $seed::BIGINT AS seed,
       $edges::BIGINT AS edges, (SELECT count(*) FROM partitions WHERE clustering = $clustering) AS neurons,
       count(*) AS modules, count(*) FILTER (level = 1) AS top_modules, coalesce(max(level), 0)::INTEGER AS levels,
       $quality::DOUBLE AS quality, $quality_measure AS quality_measure
FROM levels
