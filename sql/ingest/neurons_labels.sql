-- The temporary table chosen_labels of one layer -> the label columns of neurons; rows that say so already stay.
UPDATE neurons SET label = c.label, description = c.description, input_label = c.input_label, output_label = c.output_label
FROM (
    SELECT n.neuron, t.label, t.description, t.input_label, t.output_label
    FROM neurons n LEFT JOIN chosen_labels t USING (neuron)
    WHERE n.layer = $layer AND (n.label, n.description, n.input_label, n.output_label)
        IS DISTINCT FROM (t.label, t.description, t.input_label, t.output_label)
) AS c
WHERE neurons.layer = $layer AND neurons.neuron = c.neuron
