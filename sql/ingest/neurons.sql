-- Everything measured, imported and derived of one layer -> one row per neuron. The labels are those of the temporary
-- table chosen_labels (see label_choice.sql); the module is that of the primary clustering (metadata primary_clustering).
WITH sizes AS (
    SELECT max(try_cast(value AS INTEGER)) FILTER (key = 'neurons_per_layer') AS d_mlp,
           coalesce(max(value) FILTER (key = 'primary_clustering'), 'infomap') AS primary_one FROM metadata
), everyone AS (
    SELECT $layer::INTEGER AS layer, id::INTEGER AS neuron, $layer::BIGINT * d_mlp + id AS feature_id
    FROM sizes, range(0, d_mlp) AS ids(id)
), stats AS (
    SELECT neuron, min, max FROM neuron_stats WHERE layer = $layer
), shown AS (
    SELECT neuron, count(*)::INTEGER AS n FROM exemplars WHERE layer = $layer GROUP BY neuron
), reported AS (
    SELECT neuron, max(max_activation) AS max_activation, max(num_exemplars) AS num_exemplars
    FROM reported_activations WHERE layer = $layer GROUP BY neuron
), seen AS (
    SELECT neuron, graphs FROM appearances WHERE layer = $layer
), weights AS (
    SELECT neuron, output_norm FROM pruning WHERE layer = $layer
), placed AS (
    SELECT neuron, cluster_path, flow, string_split(cluster_path, '.') AS parts
    FROM partitions, sizes WHERE layer = $layer AND clustering = primary_one
)
SELECT e.layer, e.neuron, e.feature_id, 'mlp_neuron' AS unit_type, c.label, c.description, c.input_label, c.output_label,
       coalesce(greatest(s.max, -s.min), r.max_activation) AS max_activation,
       coalesce(shown.n, r.num_exemplars, 0) AS num_exemplars,
       coalesce(seen.graphs, 0) AS appearance_count, w.output_norm::FLOAT AS output_norm,
       p.cluster_path, p.parts[1]::INTEGER AS top_cluster, p.parts[2]::INTEGER AS sub_module,
       p.parts[3]::INTEGER AS subsub_module, len(p.parts)::INTEGER AS hierarchy_depth, p.flow AS infomap_flow
FROM everyone e
LEFT JOIN stats s USING (neuron)
LEFT JOIN weights w USING (neuron)
LEFT JOIN chosen_labels c USING (neuron)
LEFT JOIN shown USING (neuron)
LEFT JOIN reported r USING (neuron)
LEFT JOIN seen USING (neuron)
LEFT JOIN placed p USING (neuron)
ORDER BY e.neuron
