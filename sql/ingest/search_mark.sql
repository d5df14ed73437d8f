-- The texts that neurons show -> three numbers that stand for them: the exact sum of halves of MD5s (the same in every
-- DuckDB, 1.5 us a row), a quick mark by DuckDB's own hash, and what that hash makes of a fixed text (it may change
-- from version to version; then the quick mark says nothing).
SELECT count(*) AS texts,
    CASE WHEN $slow THEN coalesce(sum(md5_number_lower(
        row(feature_id, label, description, input_label, output_label)::VARCHAR)), 0) END AS slow,
    coalesce(bit_xor(hash(feature_id, label, description, input_label, output_label)), 0) AS quick,
    hash(0::BIGINT, 'atlas', NULL::VARCHAR) AS probe
FROM neurons
WHERE coalesce(label, description, input_label, output_label) IS NOT NULL
