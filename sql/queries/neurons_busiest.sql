-- The neurons of most attribution graphs, those of the largest activation first where graphs are equal or unknown.
-- max_rows: limit; NULL for all.
-- Try: FROM neurons_busiest(max_rows := 3)
CREATE OR REPLACE MACRO neurons_busiest(max_rows := 50) AS TABLE
SELECT feature_id, layer, neuron, label, cluster_path, appearance_count, max_activation
FROM neurons
ORDER BY appearance_count DESC NULLS LAST, max_activation DESC NULLS LAST, feature_id
LIMIT max_rows;
