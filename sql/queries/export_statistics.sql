-- What exports say of each of several neurons of one layer: names, module, activation statistics, histogram.
-- of_layer: the layer. of_neurons: list of its neurons.
-- density = share of counted positions with a > 0; mean_active = mean activation over these positions;
-- share_pos, share_neg = shares beyond fire_pos and fire_neg. NULL where nothing was measured.
-- Try: FROM export_statistics(0, [0, 1])
CREATE OR REPLACE MACRO export_statistics(of_layer, of_neurons) AS TABLE
SELECT
    n.neuron, n.label, n.description, n.input_label, n.output_label, n.cluster_path, s.n_tokens,
    s.n_active / nullif(s.n_tokens, 0) AS density, (s.s1 + s.abs_sum) / 2 / nullif(s.n_active, 0) AS mean_active,
    s.n_fired_pos / nullif(s.n_tokens, 0) AS share_pos, s.n_fired_neg / nullif(s.n_tokens, 0) AS share_neg,
    s.fire_pos, s.fire_neg, s.min, s.max, s.hist_lo, s.hist_hi, s.hist
FROM neurons AS n
LEFT JOIN neuron_stats AS s ON s.layer = n.layer AND s.neuron = n.neuron
WHERE n.layer = of_layer AND n.neuron BETWEEN list_min(of_neurons) AND list_max(of_neurons)
  AND n.neuron IN (SELECT unnest(of_neurons))
ORDER BY n.neuron;
