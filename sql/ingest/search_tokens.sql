-- Texts of the neurons -> their words, field by field: lower-cased runs of letters, digits and any
-- other signs that are no punctuation (see label_search), the first 16,383 of a field.
SELECT feature_id::INTEGER AS document,
    coalesce(regexp_extract_all(lower(label), '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+'), [])[:16383] AS label,
    coalesce(regexp_extract_all(lower(description), '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+'), [])[:16383] AS description,
    coalesce(regexp_extract_all(lower(input_label), '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+'), [])[:16383] AS input_label,
    coalesce(regexp_extract_all(lower(output_label), '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+'), [])[:16383] AS output_label
FROM neurons
WHERE coalesce(label, description, input_label, output_label) IS NOT NULL
ORDER BY feature_id
