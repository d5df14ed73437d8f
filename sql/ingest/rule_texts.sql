-- contexts -> those that labels may be made from: of the half of the documents that is not kept for scores, or, where
-- that half has none (a corpus of one document), all.
WITH halves AS (
    SELECT context_id, md5(concat(corpus, ' ', document)) < '8' AS is_test FROM contexts
)
SELECT context_id FROM halves WHERE NOT is_test OR (SELECT bool_and(is_test) FROM halves)
