-- Words with their stems -> search_words. Stems are numbered in alphabetical order, the inflections of one stem by the
-- documents they are in; letters: a set of the word's characters in 32 bits. A stem that is no word itself ("promot") is
-- there too, with no documents: words of a query that no text has are looked up by their stem.
WITH known AS (
    SELECT c.word, s.stem, c.documents FROM search_counts AS c JOIN search_stems AS s ON s.word = c.word
    UNION ALL
    SELECT DISTINCT stem AS word, stem, 0 AS documents FROM search_stems
    WHERE stem NOT IN (SELECT word FROM search_counts)
)
SELECT word, (dense_rank() OVER (ORDER BY stem) - 1)::INTEGER AS term,
    least(row_number() OVER (PARTITION BY stem ORDER BY documents DESC, word) - 1, 15)::UTINYINT AS form,
    list_bit_or(list_transform(string_split(word, ''), lambda x: 1::UINTEGER << (unicode(x) % 32))) AS letters,
    documents::INTEGER AS documents
FROM known
ORDER BY word
