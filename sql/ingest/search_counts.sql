-- Words of each neuron -> the vocabulary: every word and the neurons that have it.
SELECT word, count(*)::INTEGER AS documents
FROM (
    SELECT unnest(list_distinct(label || description || input_label || output_label)) AS word FROM search_tokens
)
GROUP BY word
ORDER BY word
