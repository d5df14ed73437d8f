-- The neurons of one layer with the labels of the temporary table chosen_labels in the place of their own.
SELECT n.* REPLACE (t.label AS label, t.description AS description, t.input_label AS input_label,
                    t.output_label AS output_label)
FROM neurons n LEFT JOIN chosen_labels t USING (neuron)
WHERE n.layer = $layer
ORDER BY n.neuron
