-- The neurons that fire strongly on a token, or on a category of tokens.
-- of_tokens: list of texts, each matched as in matching_tokens. of_polarity: 1, -1, or NULL for both:
-- a neuron that fires on them with either sign is found, one row a sign. at_least: strong firings needed. max_rows: limit; NULL for all.
-- n = strong firings on these tokens; recall = n / occurrences of the token, averaged over the texts;
-- precision = n / all strong firings of the neuron with that sign; lift = precision / the tokens' share of the corpus;
-- mean and peak (farthest from 0) of the activation; tokens = those it fires on; strength = sum of |activation| over
-- these firings / occurrences of the token, as a share of the neuron's peak of that sign, averaged over the texts;
-- label = the input label of that sign (manual, then written, then rule), else neurons.label.
-- Ordered by strength * log2(1 + lift).
-- Try: FROM fires_on(['dog'], max_rows := 3)
CREATE OR REPLACE MACRO fires_on(of_tokens, of_polarity := NULL, at_least := 1, max_rows := 20) AS TABLE
WITH matched AS (
    SELECT a.word, v.token_id, v.token, v."count" AS seen
    FROM (SELECT DISTINCT unnest(of_tokens) AS word) AS a
    JOIN vocab AS v ON trim(v.token, ' ') = trim(a.word, ' ')
    WHERE v.token = a.word OR trim(a.word, ' ') <> ''
), distinct_tokens AS (
    SELECT DISTINCT token_id, token, seen FROM matched
), words AS (
    SELECT word, sum(seen) AS seen FROM matched GROUP BY word
), firings AS (
    SELECT t.* FROM token_stats AS t SEMI JOIN distinct_tokens USING (token_id) WHERE of_polarity IS NULL OR t.polarity = of_polarity
), per_word AS (
    SELECT f.layer, f.neuron, f.polarity, m.word, sum(f.n) AS n, sum(abs(f."sum") ORDER BY f.token_id) AS total
    FROM firings AS f JOIN matched AS m ON m.token_id = f.token_id
    GROUP BY f.layer, f.neuron, f.polarity, m.word
), recalled AS (
    SELECT p.layer, p.neuron, p.polarity, sum(p.n / nullif(w.seen, 0) ORDER BY p.word) / (SELECT count(*) FROM words) AS recall,
        sum(p.total / nullif(w.seen, 0) ORDER BY p.word) / (SELECT count(*) FROM words) AS expected
    FROM per_word AS p JOIN words AS w ON w.word = p.word
    GROUP BY p.layer, p.neuron, p.polarity
), counted AS (
    SELECT
        f.layer, f.neuron, f.polarity, sum(f.n)::BIGINT AS n, sum(f."sum" ORDER BY f.token_id) / sum(f.n) AS mean,
        CASE WHEN f.polarity > 0 THEN max(f."max") ELSE min(f."min") END AS peak,
        list(d.token ORDER BY f.n DESC, d.token_id) AS tokens
    FROM firings AS f JOIN distinct_tokens AS d ON d.token_id = f.token_id
    GROUP BY f.layer, f.neuron, f.polarity
    HAVING sum(f.n) >= at_least
), names AS (
    SELECT layer, neuron, polarity, min_by(label, (
        CASE WHEN source = 'manual' THEN 0 WHEN starts_with(source, 'rule:') THEN 2 ELSE 1 END,
        CASE interpretability WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END,
        -coalesce(score, 0), source, coalesce(run, ''), label)) AS label
    FROM labels WHERE "pass" = 'input' AND status = 'ok' GROUP BY layer, neuron, polarity
), spread AS (
    SELECT (SELECT sum(seen) FROM distinct_tokens) / nullif((SELECT sum("count") FROM vocab), 0) AS share
)
SELECT
    c.layer, c.neuron, c.polarity, coalesce(i.label, n.label) AS label, n.cluster_path, c.n, r.recall,
    c.n / nullif(CASE WHEN c.polarity > 0 THEN s.n_fired_pos ELSE s.n_fired_neg END, 0) AS "precision",
    "precision" / nullif(x.share, 0) AS lift,
    r.expected / nullif(CASE WHEN c.polarity > 0 THEN s."max" ELSE -s."min" END, 0) AS strength, c.mean, c.peak, c.tokens
FROM counted AS c
CROSS JOIN spread AS x
JOIN recalled AS r ON r.layer = c.layer AND r.neuron = c.neuron AND r.polarity = c.polarity
LEFT JOIN neuron_stats AS s ON s.layer = c.layer AND s.neuron = c.neuron
LEFT JOIN names AS i ON i.layer = c.layer AND i.neuron = c.neuron AND i.polarity = c.polarity
LEFT JOIN neurons AS n ON n.layer = c.layer AND n.neuron = c.neuron
ORDER BY strength * log2(1 + lift) DESC NULLS LAST, c.layer, c.neuron, c.polarity DESC
LIMIT max_rows;
