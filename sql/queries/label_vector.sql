-- The stored vector of the text that a neuron shows: of its label, else of its output_label, input_label or description.
-- Lists of numbers: they can be added and subtracted before label_semantic takes them.
-- of_layer, of_neuron: the neuron. of_field: 'all', or only its 'label', 'description', 'input_label' or 'output_label'.
-- vector: 91 levels a coordinate; its length is 1 within 0.2%.
-- Try: FROM label_vector(0, 0)
CREATE OR REPLACE MACRO label_vector(of_layer, of_neuron, of_field := 'all') AS TABLE
SELECT u.field, t.text, list_transform(string_split(t.code, ''), lambda c: (ascii(c) - 80)::DOUBLE * t.factor) AS vector
FROM label_text_uses AS u JOIN label_texts AS t ON t.text_id = u.text_id
WHERE u.layer = of_layer AND u.neuron = of_neuron AND (of_field = 'all' OR u.field = of_field)
ORDER BY list_position(['label', 'output_label', 'input_label', 'description'], u.field)
LIMIT 1;
