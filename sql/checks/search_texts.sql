-- The word index is of the texts that neurons show: as many neurons with a text as metadata search_index says, and every
-- document of it a neuron with a text.
SELECT 'texts' AS what, count(*) AS says, NULL AS document
FROM neurons
WHERE coalesce(label, description, input_label, output_label) IS NOT NULL
HAVING count(*) <> (SELECT string_split(value, ':')[2]::BIGINT FROM metadata WHERE key = 'search_index')
UNION ALL
SELECT 'document without text' AS what, NULL AS says, d.document
FROM search_documents AS d LEFT JOIN neurons AS n ON n.feature_id = d.document
WHERE coalesce(n.label, n.description, n.input_label, n.output_label) IS NULL
ORDER BY ALL;
