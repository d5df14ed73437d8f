-- The texts that neurons show -> how many, and a number that stands for them all, by DuckDB's own hash (0.03 s for
-- 200,000 texts where MD5 takes 0.5); of a DuckDB that hashes otherwise it is another number.
SELECT count(*) AS texts,
    coalesce(bit_xor(hash(feature_id, label, description, input_label, output_label)), 0) AS mark
FROM neurons
WHERE coalesce(label, description, input_label, output_label) IS NOT NULL
