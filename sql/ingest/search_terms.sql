-- Postings -> the stems: in how many neurons each is, and the best scores it can give (see search_terms.peaks).
WITH size AS (
    SELECT words / documents AS mean_length FROM search_fields WHERE field = 'all'
), stems AS (
    SELECT DISTINCT w.term, s.stem FROM search_words AS w JOIN search_stems AS s ON s.word = w.word
), scored AS (
    SELECT term, occurrences > in_description + in_input_label + in_output_label AS in_label, in_description,
        in_input_label, in_output_label,
        occurrences * 2.2::DOUBLE
            / (occurrences + 0.3::DOUBLE + 0.9::DOUBLE * length / (SELECT mean_length FROM size)) AS part
    FROM search_postings
), counted AS (
    SELECT term, count(*) AS documents, count(*) FILTER (in_label) AS in_label,
        count(*) FILTER (in_description > 0) AS in_description, count(*) FILTER (in_input_label > 0) AS in_input_label,
        count(*) FILTER (in_output_label > 0) AS in_output_label, max(part, 128) AS best
    FROM scored GROUP BY term
)
SELECT s.term, s.stem, c.documents::INTEGER AS documents, c.in_label::INTEGER AS in_label,
    c.in_description::INTEGER AS in_description, c.in_input_label::INTEGER AS in_input_label,
    c.in_output_label::INTEGER AS in_output_label,
    [c.best[n] FOR n IN [1, 2, 4, 8, 16, 32, 64, 128] IF n <= len(c.best)] AS peaks
FROM stems AS s JOIN counted AS c ON c.term = s.term
ORDER BY s.term
