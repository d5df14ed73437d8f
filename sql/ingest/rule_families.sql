-- Token lists (temporary table rule_lists) and alike tokens (rule_pairs) -> the family that a list is about: a token and
-- those alike to it, with the largest sum of strengths. Where no two tokens of a list are alike, or the family carries
-- under a hundredth of the list's activation, those at least half as strong as the first. shared = what the letters of at least three quarters of its words have in common.
WITH linked AS (
    SELECT a.layer, a.neuron, a.polarity, a.token_id AS seed, a.strength AS own, sum(b.strength) AS others
    FROM rule_lists a JOIN rule_lists b USING (layer, neuron, polarity)
    JOIN rule_pairs p ON p.a = a.token_id AND p.b = b.token_id
    GROUP BY ALL
), centres AS (
    SELECT layer, neuron, polarity, arg_max(seed, (own + others, own, -seed)) AS seed
    FROM linked GROUP BY layer, neuron, polarity
), placed AS (
    SELECT l.*, l.token_id = c.seed OR p.b IS NOT NULL AS near
    FROM rule_lists l JOIN centres c USING (layer, neuron, polarity)
    LEFT JOIN rule_pairs p ON p.a = c.seed AND p.b = l.token_id
), carrying AS (
    SELECT layer, neuron, polarity FROM placed GROUP BY ALL HAVING 100 * sum(share) FILTER (near) >= sum(share)
), written AS (
    SELECT l.*, c.layer IS NOT NULL AS alike, CASE WHEN c.layer IS NULL THEN l.strength >= 500 ELSE p.near END AS inside, w.word
    FROM rule_lists l JOIN rule_words w USING (token_id) LEFT JOIN carrying c USING (layer, neuron, polarity)
    LEFT JOIN placed p USING (layer, neuron, polarity, token_id)
), single AS (
    SELECT *, row_number() OVER (PARTITION BY layer, neuron, polarity, inside, lower(word)
                                 ORDER BY strength DESC, token_id) AS spelling
    FROM written
), families AS (
    SELECT layer, neuron, polarity, any_value(alike) AS alike,
           list(token_id) FILTER (inside) AS token_ids, coalesce(sum(share) FILTER (inside), 0)::BIGINT AS share,
           arg_max(word, (strength, -token_id), 20) FILTER (inside AND spelling = 1) AS words,
           arg_max(expected, (strength, -token_id), 20) FILTER (inside AND spelling = 1) AS sizes,
           arg_max(word, (strength, -token_id), 5) FILTER (NOT inside AND spelling = 1) AS other_words,
           arg_max(expected, (strength, -token_id), 5) FILTER (NOT inside AND spelling = 1) AS other_sizes
    FROM single GROUP BY layer, neuron, polarity
), spelt AS (
    SELECT *, len(words) AS n,
           list_transform([4, 3, 2, 1], lambda k: list_aggregate(list_transform(list_filter(words,
               lambda w: regexp_full_match(w, '\p{L}+') AND len(w) > k + 1), lambda w: right(lower(w), k)), 'mode')) AS ends,
           list_transform([5, 4, 3, 2], lambda k: list_aggregate(list_transform(list_filter(words,
               lambda w: regexp_full_match(w, '\p{L}+') AND len(w) > k + 1), lambda w: left(lower(w), k)), 'mode')) AS starts
    FROM families
), common AS (
    SELECT *, list_filter(ends, lambda e: e IS NOT NULL AND 4 * len(list_filter(words, lambda w: len(w) > len(e) + 1
                   AND lower(w).ends_with(e))) >= 3 * n AND n >= CASE len(e) WHEN 1 THEN 6 ELSE 3 END AND e NOT SIMILAR TO '[^s]')[1] AS ending,
           list_filter(starts, lambda e: e IS NOT NULL AND 4 * len(list_filter(words, lambda w: len(w) > len(e) + 1
                   AND lower(w).starts_with(e))) >= 3 * n AND n >= CASE len(e) WHEN 2 THEN 6 ELSE 3 END)[1] AS start,
           len(list_filter(words, lambda w: NOT regexp_full_match(w, '[0-9][0-9.,]*'))) AS no_numbers,
           len(list_filter(words, lambda w: regexp_matches(w, '[\p{L}\p{N}]'))) AS no_marks,
           len(list_filter(words, lambda w: NOT regexp_full_match(w, '\p{Lu}\p{Ll}+'))) AS no_capitals
    FROM spelt
)
SELECT * EXCLUDE (n, ends, starts, ending, start, no_numbers, no_marks, no_capitals),
       CASE WHEN n < 3 THEN NULL WHEN no_numbers = 0 THEN 'numbers' WHEN no_marks = 0 THEN 'punctuation'
            WHEN ending IS NOT NULL THEN '-' || ending WHEN start IS NOT NULL THEN start || '-'
            WHEN no_capitals = 0 THEN 'capitalised' END AS shared
FROM common
