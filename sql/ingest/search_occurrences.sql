-- Words of the neurons document_from .. document_to -> one row per neuron and stem, in no order.
WITH texts AS (
    FROM search_tokens WHERE document BETWEEN $document_from AND $document_to
), occurrences AS (
    SELECT document, unnest(label) AS word, 1 AS field FROM texts
    UNION ALL
    SELECT document, unnest(description) AS word, 2 AS field FROM texts
    UNION ALL
    SELECT document, unnest(input_label) AS word, 3 AS field FROM texts
    UNION ALL
    SELECT document, unnest(output_label) AS word, 4 AS field FROM texts
), counted AS (
    SELECT w.term, o.document, bit_or((1 << w.form)::USMALLINT) AS forms,
        count(*) FILTER (o.field = 1) AS in_label, count(*) FILTER (o.field = 2) AS in_description,
        count(*) FILTER (o.field = 3) AS in_input_label, count(*) FILTER (o.field = 4) AS in_output_label
    FROM occurrences AS o JOIN search_words AS w ON w.word = o.word
    GROUP BY w.term, o.document
)
SELECT c.term, c.document, c.forms,
    least(c.in_label, 65535)::USMALLINT AS in_label, least(c.in_description, 65535)::USMALLINT AS in_description,
    least(c.in_input_label, 65535)::USMALLINT AS in_input_label,
    least(c.in_output_label, 65535)::USMALLINT AS in_output_label,
    d.in_label + d.in_description + d.in_input_label + d.in_output_label AS length
FROM counted AS c JOIN search_documents AS d ON d.document = c.document
