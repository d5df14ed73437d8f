-- Everything measured and derived -> one row per neuron of the model. The label is the first of: manual, two-pass
-- (output first), autointerp, rule (input first, the sign with the larger activation); input_label and output_label likewise per pass.
WITH sizes AS (
    SELECT max(try_cast(value AS INTEGER)) FILTER (key = 'num_layers') AS layers,
           max(try_cast(value AS INTEGER)) FILTER (key = 'neurons_per_layer') AS d_mlp FROM metadata
), everyone AS (
    SELECT (id // d_mlp)::INTEGER AS layer, (id % d_mlp)::INTEGER AS neuron, id AS feature_id
    FROM sizes, range(0, layers * d_mlp) AS ids(id)
), ranked AS (
    SELECT labels.*, CASE WHEN source = 'manual' THEN 0 WHEN source LIKE 'rule:%' THEN 3
                   WHEN "pass" = 'autointerp' THEN 2 ELSE 1 END AS precedence,
           CASE interpretability WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END AS clarity,
           CASE WHEN source LIKE 'rule:%' THEN "pass" = 'output' ELSE "pass" = 'input' END AS first_pass,
           CASE WHEN polarity = 0 OR (polarity > 0) = (coalesce(s.max, 0) >= -coalesce(s.min, 0)) THEN 0 ELSE 1 END AS weaker_sign
    FROM labels LEFT JOIN neuron_stats s USING (layer, neuron) WHERE status = 'ok'
), chosen AS (
    SELECT layer, neuron,
           min_by(struct_pack(label := label, description := description),
                  (precedence, first_pass, weaker_sign, clarity, -coalesce(score, 0), source, -polarity)) AS best,
           min_by(label, (precedence, weaker_sign, clarity, -coalesce(score, 0), source, -polarity)) FILTER ("pass" = 'input') AS input_label,
           min_by(label, (precedence, weaker_sign, clarity, -coalesce(score, 0), source, -polarity)) FILTER ("pass" = 'output') AS output_label
    FROM ranked GROUP BY layer, neuron
), shown AS (
    SELECT layer, neuron, count(*)::INTEGER AS n FROM exemplars GROUP BY layer, neuron
), seen AS (
    SELECT layer, neuron, count(*)::INTEGER AS n FROM neuron_graphs GROUP BY layer, neuron
), placed AS (
    SELECT layer, neuron, cluster_path, flow, string_split(cluster_path, '.') AS parts
    FROM partitions WHERE method = 'infomap'
)
SELECT e.layer, e.neuron, e.feature_id, 'mlp_neuron' AS unit_type, c.best.label AS label,
       c.best.description AS description, c.input_label, c.output_label,
       greatest(s.max, -s.min) AS max_activation, coalesce(shown.n, 0) AS num_exemplars,
       coalesce(seen.n, 0) AS appearance_count, w.output_norm::FLOAT AS output_norm,
       p.cluster_path, p.parts[1]::INTEGER AS top_cluster, p.parts[2]::INTEGER AS sub_module,
       p.parts[3]::INTEGER AS subsub_module, len(p.parts)::INTEGER AS hierarchy_depth, p.flow AS infomap_flow
FROM everyone e
LEFT JOIN neuron_stats s USING (layer, neuron)
LEFT JOIN pruning w USING (layer, neuron)
LEFT JOIN chosen c USING (layer, neuron)
LEFT JOIN shown USING (layer, neuron)
LEFT JOIN seen USING (layer, neuron)
LEFT JOIN placed p USING (layer, neuron)
ORDER BY e.layer, e.neuron
