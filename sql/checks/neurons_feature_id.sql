-- feature_id is layer * neurons_per_layer + neuron.
SELECT layer, neuron, feature_id
FROM neurons
WHERE feature_id IS DISTINCT FROM
    layer::BIGINT * (SELECT max(value::BIGINT) FROM metadata WHERE key = 'neurons_per_layer') + neuron
ORDER BY layer, neuron;
