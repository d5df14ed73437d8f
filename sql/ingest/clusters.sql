-- The primary clustering -> one row per real module of every level, with exact (order-free) weights of its edges.
-- The label lists the distinct labels of the three members with the largest flow that have one.
-- Weights are whole numbers of 2^-44, so what leaves a module is exactly what its members send less what stays inside.
-- The unnest in `inside` also keeps the planner from joining the members of a module to one another first, which is
-- quadratic in its size (a module of 144,000 neurons: 20 billion pairs).
WITH members AS (
    SELECT feature_id::INTEGER AS id, layer, label, infomap_flow, string_split(cluster_path, '.') AS parts
    FROM neurons WHERE cluster_path IS NOT NULL
), levels AS MATERIALIZED (
    SELECT id, layer, label, infomap_flow, level, array_to_string(parts[1:level], '.') AS path
    FROM members, unnest(range(1, len(parts) + 1)) AS l(level)
), sizes AS MATERIALIZED (
    SELECT path, row_number() OVER (ORDER BY path)::INTEGER AS module, any_value(level) AS level,
           count(*)::INTEGER AS size, min(layer) AS layer_min, max(layer) AS layer_max, median(layer) AS median_layer,
           sum(round(infomap_flow * 1152921504606846976)::HUGEINT)::DOUBLE / 1152921504606846976 AS flow,
           array_to_string(list_distinct(max_by(label, (infomap_flow, -id), 3)), ' | ') AS label
    FROM levels GROUP BY path
), places AS MATERIALIZED (
    SELECT id, module FROM levels JOIN sizes USING (path)
), chains AS MATERIALIZED (
    SELECT id, list(module) AS chain FROM places GROUP BY id
), sent AS (
    SELECT src AS id, sum(round(weight_abs_sum::DOUBLE / count * 17592186044416)::HUGEINT) AS w FROM edges GROUP BY src
), received AS (
    SELECT tgt AS id, sum(round(weight_abs_sum::DOUBLE / count * 17592186044416)::HUGEINT) AS w FROM edges GROUP BY tgt
), inside AS (
    SELECT e.module, sum(e.w) AS w
    FROM (
        SELECT unnest(s.chain) AS module, tgt, round(weight_abs_sum::DOUBLE / count * 17592186044416)::HUGEINT AS w
        FROM edges JOIN chains s ON s.id = src
    ) e JOIN places t ON t.id = e.tgt AND t.module = e.module
    GROUP BY e.module
), weights AS (
    SELECT module, sum(inside) AS inside, sum(sent) AS sent, sum(received) AS received
    FROM (
        SELECT module, w AS inside, 0 AS sent, 0 AS received FROM inside
        UNION ALL SELECT module, 0, w, 0 FROM places JOIN sent USING (id)
        UNION ALL SELECT module, 0, 0, w FROM places JOIN received USING (id)
    ) GROUP BY module
)
SELECT path AS cluster_path, level::INTEGER AS level, string_split(path, '.')[1]::INTEGER AS top_cluster,
       string_split(path, '.')[2]::INTEGER AS sub_module, string_split(path, '.')[3]::INTEGER AS subsub_module,
       size, layer_min, layer_max, median_layer, flow, label,
       coalesce(inside, 0) / 17592186044416 AS internal_weight,
       coalesce(sent - inside, 0) / 17592186044416 AS outgoing_weight,
       coalesce(received - inside, 0) / 17592186044416 AS incoming_weight,
       (sent + received - 2 * inside)::DOUBLE / nullif(sent + received, 0)::DOUBLE AS conductance
FROM sizes LEFT JOIN weights USING (module)
ORDER BY list_transform(string_split(path, '.'), lambda x: x::INTEGER)
