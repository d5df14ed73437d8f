-- The members of every module of one level that have a label, those with the largest flow first.
-- of_level: 1 = top. max_rows: members of each module. at_least_size: fewest neurons of a module.
-- Members of the parts below count as members.
-- Try: FROM level_members(1, max_rows := 2)
CREATE OR REPLACE MACRO level_members(of_level, max_rows := 30, at_least_size := 2) AS TABLE
WITH placed AS (
    SELECT
        array_to_string(string_split(cluster_path, '.')[1:of_level], '.') AS module_path, layer, neuron, feature_id,
        label AS name, input_label AS fires_on, output_label AS effect, infomap_flow AS walk_share
    FROM neurons
    WHERE len(string_split(cluster_path, '.')) >= of_level
      AND coalesce(label, input_label, output_label) IS NOT NULL
)
SELECT
    p.module_path, row_number() OVER (
        PARTITION BY p.module_path ORDER BY p.walk_share DESC NULLS LAST, p.feature_id) AS place,
    p.layer, p.neuron, p.name, p.fires_on, p.effect
FROM placed AS p
JOIN clusters AS c ON c.cluster_path = p.module_path
WHERE c.size >= at_least_size
QUALIFY place <= max_rows
ORDER BY p.module_path, place;
