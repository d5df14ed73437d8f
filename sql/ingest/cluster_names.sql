-- Labels of the neurons -> names of the modules, as in clusters.sql: the distinct labels of the three members with the
-- largest flow that have one.
WITH members AS (
    SELECT feature_id::INTEGER AS id, label, infomap_flow, string_split(cluster_path, '.') AS parts
    FROM neurons WHERE cluster_path IS NOT NULL
), levels AS (
    SELECT id, label, infomap_flow, array_to_string(parts[1:level], '.') AS path
    FROM members, unnest(range(1, len(parts) + 1)) AS l(level)
)
SELECT path, array_to_string(list_distinct(max_by(label, (infomap_flow, -id), 3)), ' | ') AS name
FROM levels GROUP BY path
