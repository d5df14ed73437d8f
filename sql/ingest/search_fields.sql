-- Lengths -> number of documents and words by field, and of all fields together.
WITH sizes AS (
    SELECT unnest([
        struct_pack(field := 'label', words := in_label),
        struct_pack(field := 'description', words := in_description),
        struct_pack(field := 'input_label', words := in_input_label),
        struct_pack(field := 'output_label', words := in_output_label),
        struct_pack(field := 'all', words := in_label + in_description + in_input_label + in_output_label)
    ], recursive := true)
    FROM search_documents
)
SELECT f.field, count(s.words) AS documents, coalesce(sum(s.words), 0)::BIGINT AS words
FROM (VALUES ('label'), ('description'), ('input_label'), ('output_label'), ('all')) AS f(field)
LEFT JOIN sizes AS s ON s.field = f.field AND s.words > 0
GROUP BY f.field
ORDER BY f.field
