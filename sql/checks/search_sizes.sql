-- The word index holds what its counts say: every stem its documents, every document its words, every word a stem.
WITH postings AS (
    SELECT term, count(*) AS documents FROM search_postings GROUP BY term
), lengths AS (
    SELECT document, sum(occurrences) AS words, any_value(length) AS length, min(length) <> max(length) AS uneven
    FROM search_postings GROUP BY document
)
SELECT 'search_terms' AS of_table, coalesce(t.term, p.term) AS id, t.documents AS says, p.documents AS has
FROM search_terms AS t FULL JOIN postings AS p ON p.term = t.term
WHERE t.documents IS DISTINCT FROM p.documents
UNION ALL
SELECT 'search_documents' AS of_table, coalesce(d.document, l.document) AS id, l.length AS says, l.words AS has
FROM search_documents AS d FULL JOIN lengths AS l ON l.document = d.document
WHERE l.uneven OR l.length IS DISTINCT FROM l.words
   OR l.length IS DISTINCT FROM d.in_label + d.in_description + d.in_input_label + d.in_output_label
UNION ALL
SELECT 'search_words' AS of_table, w.term AS id, w.documents AS says, t.documents AS has
FROM search_words AS w LEFT JOIN search_terms AS t ON t.term = w.term
WHERE t.term IS NULL OR w.documents > t.documents
ORDER BY ALL;
