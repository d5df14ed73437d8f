-- Which neurons show which embedded text in the fields $fields.
SELECT t.text_id, s.field, s.layer, s.neuron
FROM (
    SELECT layer, neuron, unnest(['label', 'input_label', 'output_label', 'description']) AS field,
        unnest([label, input_label, output_label, description]) AS text
    FROM neurons
) AS s JOIN label_texts AS t ON t.text = s.text
WHERE list_contains($fields, s.field)
ORDER BY t.text_id, s.field, s.layer, s.neuron
