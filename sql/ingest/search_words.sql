-- Words with their stems -> search_words. Stems are numbered in alphabetical order, the inflections of one stem by the
-- documents they are in; letters: a set of the word's characters in 32 bits.
SELECT c.word, (dense_rank() OVER (ORDER BY s.stem) - 1)::INTEGER AS term,
    least(row_number() OVER (PARTITION BY s.stem ORDER BY c.documents DESC, c.word) - 1, 15)::UTINYINT AS form,
    list_bit_or(list_transform(string_split(c.word, ''), lambda x: 1::UINTEGER << (unicode(x) % 32))) AS letters,
    c.documents
FROM search_counts AS c JOIN search_stems AS s ON s.word = c.word
ORDER BY c.word
