-- Rows of the stems term_from .. term_to -> in the order of the index.
SELECT term, document, forms, in_label, in_description, in_input_label, in_output_label, length
FROM search_occurrences
WHERE term BETWEEN $term_from AND $term_to
ORDER BY term, document
