-- Downstream connections lead to a later layer, upstream ones come from an earlier one; both neurons exist.
SELECT w.layer, w.neuron, w.direction, w.polarity, w.rank, w.other_layer, w.other_neuron
FROM wiring AS w
LEFT JOIN neurons AS a ON a.layer = w.layer AND a.neuron = w.neuron
LEFT JOIN neurons AS b ON b.layer = w.other_layer AND b.neuron = w.other_neuron
WHERE a.layer IS NULL OR b.layer IS NULL OR w.direction NOT IN ('downstream', 'upstream') OR w.direction IS NULL
   OR (w.direction = 'downstream' AND w.other_layer <= w.layer)
   OR (w.direction = 'upstream' AND w.other_layer >= w.layer)
ORDER BY ALL;
