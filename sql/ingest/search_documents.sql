-- Words of each neuron -> lengths of its texts; neurons without a word are no documents.
SELECT document, len(label)::INTEGER AS in_label, len(description)::INTEGER AS in_description,
    len(input_label)::INTEGER AS in_input_label, len(output_label)::INTEGER AS in_output_label
FROM search_tokens
WHERE len(label) + len(description) + len(input_label) + len(output_label) > 0
ORDER BY document
