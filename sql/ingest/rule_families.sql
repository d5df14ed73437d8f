-- Token lists (temporary table rule_lists) and alike tokens (rule_pairs) -> the family that a list is about: one of its ten
-- strongest tokens and those alike to it, with the largest sum of strengths. Where no two tokens of a list are alike, or
-- the family carries under a hundredth of the list's activation, those at least half as strong as the first. Words that
-- differ by capitals or spaces are said once. shared = what the letters of three quarters of its words have in common.
WITH linked AS (
    SELECT a.list, a.token_id AS seed, any_value(a.strength) AS own, sum(b.strength) AS others
    FROM rule_lists a JOIN rule_lists b USING (list) JOIN rule_pairs p ON p.a = a.token_id AND p.b = b.token_id
    WHERE a.place <= 10 GROUP BY a.list, a.token_id
), centres AS (
    SELECT list, arg_max(seed, ((own + others) * 1001 + own)::BIGINT * 4294967296 - seed) AS seed FROM linked GROUP BY list
), placed AS (
    SELECT l.list, l.place, l.token_id, l.strength, l.expected, l.share, c.seed IS NOT NULL AS seeded,
           coalesce(l.token_id = c.seed OR p.b IS NOT NULL, false) AS near
    FROM rule_lists l LEFT JOIN centres c USING (list) LEFT JOIN rule_pairs p ON p.a = c.seed AND p.b = l.token_id
), carrying AS (
    SELECT list, any_value(seeded) AND 100 * coalesce(sum(share) FILTER (near), 0) >= sum(share) AS alike
    FROM placed GROUP BY list
), written AS (
    SELECT list, place, token_id, expected, share, word, spelling, alike, CASE WHEN alike THEN near ELSE strength >= 500 END AS inside
    FROM placed JOIN carrying USING (list) JOIN rule_words USING (token_id)
), gathered AS (
    SELECT list, inside, any_value(alike) AS alike, sum(share)::BIGINT AS share,
           list({'word': word, 'size': expected, 'token_id': token_id, 'spelling': spelling} ORDER BY place) AS all_tokens
    FROM written GROUP BY list, inside
), spelt AS (
    SELECT *, list_transform(all_tokens, lambda t: t.spelling) AS spellings FROM gathered
), single AS (
    SELECT *, CASE WHEN len(list_distinct(spellings)) = len(spellings) THEN all_tokens
                   ELSE list_filter(all_tokens, lambda t, i: list_position(spellings, t.spelling) = i) END AS tokens
    FROM spelt
), sides AS (
    SELECT list, alike, share, list_transform(all_tokens, lambda t: t.token_id) AS token_ids,
           list_transform(tokens[1:20], lambda t: t.word) AS words, list_transform(tokens[1:20], lambda t: t.size) AS sizes
    FROM single WHERE inside
), families AS (
    SELECT s.*, list_transform(o.tokens[1:5], lambda t: t.word) AS other_words,
           list_transform(o.tokens[1:5], lambda t: t.size) AS other_sizes,
           list_filter(s.words, lambda w: regexp_full_match(w, '\p{L}{3,}')) AS plain, len(s.words) AS n
    FROM sides s LEFT JOIN (SELECT list, tokens FROM single WHERE NOT inside) o USING (list)
), common AS (
    SELECT *, CASE WHEN n >= 3 AND 4 * len(plain) >= 3 * n THEN list_filter(
               list_transform([4, 3, 2, 1], lambda k: list_aggregate(list_transform(plain, lambda w: right(lower(w), k)), 'mode')),
               lambda e: 4 * len(list_filter(plain, lambda w: len(w) > len(e) + 1 AND lower(w).ends_with(e))) >= 3 * n
                         AND (len(e) > 1 OR n >= 6 AND e = 's'))[1] END AS ending,
           CASE WHEN n >= 3 AND 4 * len(plain) >= 3 * n THEN list_filter(
               list_transform([5, 4, 3, 2], lambda k: list_aggregate(list_transform(plain, lambda w: left(lower(w), k)), 'mode')),
               lambda e: 4 * len(list_filter(plain, lambda w: len(w) > len(e) + 1 AND lower(w).starts_with(e))) >= 3 * n
                         AND (len(e) > 2 OR n >= 6))[1] END AS start,
           len(list_filter(words, lambda w: NOT regexp_full_match(w, '[0-9][0-9.,]*'))) AS no_numbers,
           len(list_filter(words, lambda w: regexp_matches(w, '[\p{L}\p{N}]'))) AS no_marks,
           len(list_filter(words, lambda w: NOT regexp_full_match(w, '\p{Lu}\p{Ll}+'))) AS no_capitals
    FROM families
)
SELECT (list >> 32)::INTEGER AS layer, ((list & 4294967295) >> 3)::INTEGER AS neuron, ((list & 7) - 2)::TINYINT AS polarity,
       alike, token_ids, share, words, sizes, other_words, other_sizes,
       CASE WHEN n < 3 THEN NULL WHEN no_numbers = 0 THEN 'numbers' WHEN no_marks = 0 THEN 'punctuation'
            WHEN ending IS NOT NULL THEN '-' || ending WHEN start IS NOT NULL THEN start || '-'
            WHEN no_capitals = 0 THEN 'capitalised' END AS shared
FROM common
