-- The temporary table label_ranks of one layer -> the label each neuron shows, with its source and kind, and the best
-- of each pass.
SELECT neuron, b.source AS source, b.kind AS kind, b.label AS label, b.description AS description, input_label, output_label
FROM (
    SELECT neuron, min_by(struct_pack(source := source, kind := kind, label := label, description := description), place) AS b,
           min_by(label, place) FILTER ("pass" = 'input') AS input_label,
           min_by(label, place) FILTER ("pass" = 'output') AS output_label
    FROM label_ranks GROUP BY neuron
)
ORDER BY neuron
