-- Texts of the neurons -> their words, field by field: lower-cased runs of letters and digits.
SELECT feature_id::INTEGER AS document,
    coalesce(regexp_extract_all(lower(label), '[\p{L}\p{N}]+'), []) AS label,
    coalesce(regexp_extract_all(lower(description), '[\p{L}\p{N}]+'), []) AS description,
    coalesce(regexp_extract_all(lower(input_label), '[\p{L}\p{N}]+'), []) AS input_label,
    coalesce(regexp_extract_all(lower(output_label), '[\p{L}\p{N}]+'), []) AS output_label
FROM neurons
WHERE coalesce(label, description, input_label, output_label) IS NOT NULL
ORDER BY feature_id
