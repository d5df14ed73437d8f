-- The neurons of a module and of the modules below it, those with the largest flow first.
-- of_path: its path, for example '158.4'. max_rows: limit; NULL for all.
-- Try: FROM cluster_members('1', max_rows := 5)
CREATE OR REPLACE MACRO cluster_members(of_path, max_rows := 50) AS TABLE
SELECT
    layer, neuron, label, input_label, output_label, cluster_path, infomap_flow, appearance_count, max_activation,
    feature_id
FROM neurons
WHERE cluster_path = of_path OR starts_with(cluster_path, of_path || '.')
ORDER BY infomap_flow DESC NULLS LAST, layer, neuron
LIMIT max_rows;
