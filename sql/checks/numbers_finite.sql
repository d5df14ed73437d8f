-- No measured number is NaN or infinite (edges, token_edges: see edges_statistics).
SELECT 'neurons' AS table_name, layer, neuron FROM neurons
WHERE NOT isfinite(max_activation) OR NOT isfinite(output_norm) OR NOT isfinite(infomap_flow)
UNION ALL
SELECT 'neuron_stats', layer, neuron FROM neuron_stats
WHERE NOT isfinite(s1) OR NOT isfinite(s2) OR NOT isfinite(s3) OR NOT isfinite(s4) OR NOT isfinite(abs_sum)
   OR NOT isfinite(fire_pos) OR NOT isfinite(fire_neg) OR NOT isfinite(min) OR NOT isfinite(max)
   OR NOT isfinite(hist_lo) OR NOT isfinite(hist_hi) OR NOT isfinite(calib_gate) OR NOT isfinite(calib_up)
   OR NOT isfinite(calib_out)
   OR NOT isfinite(list_sum(quantiles)) OR NOT isfinite(grad_s_a) OR NOT isfinite(grad_s_a2)
   OR NOT isfinite(grad_s_abs) OR NOT isfinite(grad_s_g2) OR NOT isfinite(grad_s_ag) OR NOT isfinite(grad_s_a2g2)
   OR NOT isfinite(grad_s_absag) OR NOT isfinite(grad_s_ag2)
UNION ALL
SELECT 'exemplars', layer, neuron FROM exemplars
WHERE NOT isfinite(activation) OR NOT isfinite(list_sum("window"))
UNION ALL
SELECT 'token_stats', layer, neuron FROM token_stats
WHERE NOT isfinite("sum") OR NOT isfinite("max") OR NOT isfinite("min")
UNION ALL
SELECT 'logit_lens', layer, neuron FROM logit_lens WHERE NOT isfinite(value)
UNION ALL
SELECT 'read_tokens', layer, neuron FROM read_tokens WHERE NOT isfinite(value)
UNION ALL
SELECT 'wiring', layer, neuron FROM wiring
WHERE NOT isfinite(c_up) OR NOT isfinite(c_gate) OR NOT isfinite(lab_strength) OR NOT isfinite(effective_strength)
UNION ALL
SELECT 'pruning', layer, neuron FROM pruning
WHERE NOT isfinite(weight_magnitude) OR NOT isfinite(importance) OR NOT isfinite(pruning_score)
   OR NOT isfinite(gate_norm) OR NOT isfinite(up_norm) OR NOT isfinite(output_norm)
   OR NOT isfinite(activation_magnitude) OR NOT isfinite(activation_variance)
   OR NOT isfinite(fisher) OR NOT isfinite(wifv) OR NOT isfinite(taylor_abs) OR NOT isfinite(wanda)
   OR NOT isfinite(pruning_score_global)
UNION ALL
SELECT 'labels', layer, neuron FROM labels WHERE NOT isfinite(score)
UNION ALL
SELECT 'partitions', layer, neuron FROM partitions WHERE NOT isfinite(flow)
UNION ALL
SELECT 'cooccurrence', layer, neuron FROM cooccurrence WHERE NOT isfinite(lift)
UNION ALL
SELECT 'neuron_graphs', layer, neuron FROM neuron_graphs WHERE NOT isfinite(relevance)
UNION ALL
SELECT 'graphs ' || graph_id, NULL, NULL FROM graphs
WHERE NOT isfinite(metric_value) OR NOT isfinite(tau) OR NOT isfinite(relevance_dropped) OR NOT isfinite(explained)
   OR NOT isfinite(remainder) OR NOT isfinite(completeness_residual)
UNION ALL
SELECT 'clusters ' || cluster_path, NULL, NULL FROM clusters
WHERE NOT isfinite(median_layer) OR NOT isfinite(flow) OR NOT isfinite(internal_weight)
   OR NOT isfinite(outgoing_weight) OR NOT isfinite(incoming_weight)
UNION ALL
SELECT 'weight_stats ' || name, layer, NULL FROM weight_stats
WHERE NOT isfinite(sparsity) OR NOT isfinite(mean_magnitude) OR NOT isfinite(std_magnitude)
   OR NOT isfinite(min_magnitude) OR NOT isfinite(max_magnitude) OR NOT isfinite(l1_norm) OR NOT isfinite(l2_norm)
ORDER BY ALL;
