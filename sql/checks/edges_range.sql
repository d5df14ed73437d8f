-- Both ends of an edge are neurons of the model, native and generated columns agree, and the target's layer is later.
WITH sizes AS (
    SELECT
        max(value::BIGINT) FILTER (key = 'num_layers') AS layers,
        max(value::BIGINT) FILTER (key = 'neurons_per_layer') AS width
    FROM metadata
    WHERE key IN ('num_layers', 'neurons_per_layer')
)
SELECT e.src, e.tgt, e.src_layer, e.src_neuron, e.tgt_layer, e.tgt_neuron
FROM edges AS e CROSS JOIN sizes AS s
WHERE e.src IS NULL OR e.tgt IS NULL OR e.src < 0 OR e.tgt < 0
   OR e.src >= s.layers * s.width OR e.tgt >= s.layers * s.width
   OR e.src // s.width >= e.tgt // s.width
   OR e.src_layer IS DISTINCT FROM e.src // s.width OR e.src_neuron IS DISTINCT FROM e.src % s.width
   OR e.tgt_layer IS DISTINCT FROM e.tgt // s.width OR e.tgt_neuron IS DISTINCT FROM e.tgt % s.width
ORDER BY e.src, e.tgt;
