-- The modules of the primary clustering, the largest first.
-- of_level: 1 = top modules, 2 = their parts ...; NULL for every level. of_parent: only modules below this path.
-- at_least: fewest neurons. max_rows: limit; NULL for all.
-- conductance = (outgoing + incoming) / (2 internal + outgoing + incoming), 0 = closed, 1 = no inner edge;
-- computed where none is stored.
-- Try: FROM clusters_list(of_level := 1, max_rows := 5)
CREATE OR REPLACE MACRO clusters_list(of_level := NULL, of_parent := NULL, at_least := 1, max_rows := 50) AS TABLE
SELECT
    cluster_path, level, label, size, layer_min, layer_max, median_layer, flow, internal_weight, outgoing_weight,
    incoming_weight,
    coalesce(conductance, (outgoing_weight + incoming_weight)
        / nullif(2 * internal_weight + outgoing_weight + incoming_weight, 0)) AS conductance
FROM clusters
WHERE (of_level IS NULL OR level = of_level) AND size >= at_least
  AND (of_parent IS NULL OR starts_with(cluster_path, of_parent || '.'))
ORDER BY size DESC, level, cluster_path
LIMIT max_rows;
