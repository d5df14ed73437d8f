-- What label files report of activations -> neurons, where nothing was measured.
UPDATE neurons SET max_activation = CASE WHEN r.measured THEN neurons.max_activation ELSE r.max_activation END,
                   num_exemplars = CASE WHEN r.shown THEN neurons.num_exemplars ELSE coalesce(r.num_exemplars, 0) END
FROM (
    SELECT layer, neuron, max(max_activation) AS max_activation, max(num_exemplars) AS num_exemplars,
           (layer, neuron) IN (SELECT (layer, neuron) FROM neuron_stats) AS measured,
           (layer, neuron) IN (SELECT (layer, neuron) FROM exemplars) AS shown
    FROM reported_activations GROUP BY layer, neuron
) AS r
WHERE neurons.layer = r.layer AND neurons.neuron = r.neuron AND NOT (r.measured AND r.shown)
