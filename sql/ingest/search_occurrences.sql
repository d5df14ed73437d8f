-- Words of the neurons document_from .. document_to -> one row per neuron and stem, in no order, packed into numbers
-- (three aggregates instead of seven): place = term << 32 | document; mark = length << 16 | the set of inflections;
-- counts = occurrences in all fields (16 bits), description, input_label, output_label (14 bits each).
WITH texts AS (
    SELECT *, (len(label) + len(description) + len(input_label) + len(output_label))::BIGINT << 16 AS size
    FROM search_tokens WHERE document BETWEEN $document_from AND $document_to
), occurrences AS (
    SELECT document, size, unnest(label) AS word, 1::BIGINT AS one FROM texts
    UNION ALL
    SELECT document, size, unnest(description) AS word, (1::BIGINT << 16) + 1 AS one FROM texts
    UNION ALL
    SELECT document, size, unnest(input_label) AS word, (1::BIGINT << 30) + 1 AS one FROM texts
    UNION ALL
    SELECT document, size, unnest(output_label) AS word, (1::BIGINT << 44) + 1 AS one FROM texts
)
SELECT (w.term::BIGINT << 32) | o.document AS place, bit_or(o.size | (1::BIGINT << w.form)) AS mark,
    sum(o.one)::BIGINT AS counts
FROM occurrences AS o JOIN search_words AS w ON w.word = o.word
GROUP BY place
