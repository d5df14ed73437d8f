-- Every neuron of the model is one row of neurons: num_layers * neurons_per_layer rows, each in range and once.
WITH sizes AS (
    SELECT
        max(value::BIGINT) FILTER (key = 'num_layers') AS layers,
        max(value::BIGINT) FILTER (key = 'neurons_per_layer') AS width
    FROM metadata
    WHERE key IN ('num_layers', 'neurons_per_layer')
)
SELECT layer, neuron, 'in the table ' || count(*) || ' times' AS fault
FROM neurons
GROUP BY layer, neuron
HAVING count(*) > 1
UNION ALL
SELECT layer, neuron, 'outside the model' AS fault
FROM neurons CROSS JOIN sizes
WHERE layer IS NULL OR neuron IS NULL OR layer NOT BETWEEN 0 AND layers - 1 OR neuron NOT BETWEEN 0 AND width - 1
UNION ALL
SELECT NULL, NULL, 'expected ' || coalesce(layers * width, -1) || ' rows, found ' || (SELECT count(*) FROM neurons)
FROM sizes
WHERE layers * width IS DISTINCT FROM (SELECT count(*) FROM neurons)
ORDER BY ALL;
