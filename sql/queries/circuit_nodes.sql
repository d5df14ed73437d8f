-- What is shown of a circuit's neurons. of_ids: packed ids.
-- Try: FROM circuit_nodes([0, 10])
CREATE OR REPLACE MACRO circuit_nodes(of_ids) AS TABLE
SELECT feature_id AS id, layer, neuron, label, cluster_path
FROM neurons
WHERE feature_id IN (SELECT unnest(of_ids))
ORDER BY feature_id;
