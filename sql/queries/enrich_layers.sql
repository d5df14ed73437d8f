-- Neurons with a label by layer, of each module and (module NULL) of the whole atlas: the sizes that enrichment needs.
-- of_ids, of_level, of_field: as in enrich_counts. max_rows: limit; NULL for all.
-- Try: FROM enrich_layers(NULL, of_level := 1)
CREATE OR REPLACE MACRO enrich_layers(of_ids, of_level := 1, of_field := 'label', max_rows := NULL) AS TABLE
WITH labelled AS (
    SELECT layer, neuron FROM neurons
    WHERE CASE of_field WHEN 'label' THEN label WHEN 'description' THEN description
        WHEN 'input_label' THEN input_label WHEN 'output_label' THEN output_label END IS NOT NULL
    UNION ALL
    SELECT DISTINCT layer, neuron FROM labels
    WHERE CASE of_field WHEN 'type' THEN "type" WHEN 'source' THEN source END IS NOT NULL AND status = 'ok'
), chosen AS (
    SELECT DISTINCT unnest(of_ids)::BIGINT AS id
), placed AS (
    SELECT n.layer,
        CASE WHEN of_ids IS NULL THEN array_to_string(string_split(n.cluster_path, '.')[1:of_level], '.')
             WHEN c.id IS NOT NULL THEN 'selection' END AS module
    FROM neurons AS n SEMI JOIN labelled AS l ON l.layer = n.layer AND l.neuron = n.neuron
    LEFT JOIN chosen AS c ON c.id = n.feature_id
), counted AS (
    SELECT module, layer, count(*) AS n FROM placed WHERE module IS NOT NULL GROUP BY module, layer
    UNION ALL
    SELECT NULL AS module, layer, count(*) AS n FROM placed GROUP BY layer
)
SELECT module, layer, n FROM counted ORDER BY module NULLS LAST, layer LIMIT max_rows;
