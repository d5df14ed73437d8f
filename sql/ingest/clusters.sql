-- The primary clustering -> one row per real module of every level, with exact (order-free) weights of its edges.
-- The label lists the most frequent labels' first phrase among the members with the largest flow.
WITH members AS (
    SELECT feature_id, layer, label, infomap_flow, string_split(cluster_path, '.') AS parts
    FROM neurons WHERE cluster_path IS NOT NULL
), levels AS (
    SELECT feature_id, layer, label, infomap_flow, level, array_to_string(parts[1:level], '.') AS path
    FROM members, unnest(range(1, len(parts) + 1)) AS l(level)
), sizes AS (
    SELECT path, any_value(level) AS level, count(*)::INTEGER AS size, min(layer) AS layer_min,
           max(layer) AS layer_max, median(layer) AS median_layer,
           sum(round(infomap_flow * 1152921504606846976)::HUGEINT)::DOUBLE / 1152921504606846976 AS flow,
           array_to_string(list_distinct(max_by(label, (infomap_flow, -feature_id), 3)), ' | ') AS label
    FROM levels GROUP BY path
), weights AS (
    SELECT path, sum(inside) / 17592186044416 AS internal_weight, sum(leaving) / 17592186044416 AS outgoing_weight,
           sum(entering) / 17592186044416 AS incoming_weight
    FROM (
        SELECT s.path, CASE WHEN s.path = t.path THEN w ELSE 0 END AS inside,
               CASE WHEN s.path = t.path THEN 0 ELSE w END AS leaving, 0 AS entering
        FROM (SELECT src, tgt, round(weight_abs_sum::DOUBLE / count * 17592186044416)::HUGEINT AS w FROM edges) e
        JOIN levels s ON s.feature_id = e.src
        LEFT JOIN levels t ON t.feature_id = e.tgt AND t.level = s.level
        UNION ALL
        SELECT t.path, 0, 0, CASE WHEN s.path = t.path THEN 0 ELSE w END
        FROM (SELECT src, tgt, round(weight_abs_sum::DOUBLE / count * 17592186044416)::HUGEINT AS w FROM edges) e
        JOIN levels t ON t.feature_id = e.tgt
        LEFT JOIN levels s ON s.feature_id = e.src AND s.level = t.level
    ) GROUP BY path
)
SELECT path AS cluster_path, level::INTEGER AS level, string_split(path, '.')[1]::INTEGER AS top_cluster,
       string_split(path, '.')[2]::INTEGER AS sub_module, string_split(path, '.')[3]::INTEGER AS subsub_module,
       size, layer_min, layer_max, median_layer, flow, label, coalesce(internal_weight, 0) AS internal_weight,
       coalesce(outgoing_weight, 0) AS outgoing_weight, coalesce(incoming_weight, 0) AS incoming_weight
FROM sizes LEFT JOIN weights USING (path)
ORDER BY list_transform(string_split(path, '.'), lambda x: x::INTEGER)
