-- Tokens and texts that fire a neuron strongly -> input labels by rule, one per neuron and sign.
-- A token is a trigger when the neuron fires on at least 20% of its occurrences, 3 times as often as chance, and with an
-- expected strong activation per occurrence (|sum| / occurrences) of at least 10% of the neuron's peak of that sign.
-- The label names the triggers, strongest first, when at least half of the ten strongest exemplars stand on one;
-- otherwise it shows the strongest exemplars as 'previous token, token': what fires it is more than the token.
-- cover = share of the strong activation (sum of |a| over firings) that the triggers explain.
WITH corpus AS (
    SELECT sum(count)::DOUBLE AS total FROM vocab
), strength AS (
    SELECT layer, median(greatest(max, -min)) AS typical FROM neuron_stats GROUP BY layer
), signs AS (
    SELECT layer, neuron, 1 AS polarity, n_fired_pos AS fired, max AS extreme, greatest(max, -min) AS strongest
    FROM neuron_stats
    UNION ALL
    SELECT layer, neuron, -1, n_fired_neg, min, greatest(max, -min) FROM neuron_stats
), scored AS (
    SELECT t.*, v.token, t.n / v.count::DOUBLE AS recall, abs(s.extreme) AS peak,
           (t.n / s.fired::DOUBLE) / (v.count / corpus.total) AS lift, abs(t.sum) / v.count AS expected,
           abs(t.sum) / sum(abs(t.sum)) OVER (PARTITION BY t.layer, t.neuron, t.polarity ORDER BY t.token_id
               ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS mass
    FROM token_stats t JOIN signs s USING (layer, neuron, polarity) JOIN vocab v USING (token_id), corpus
), chosen AS (
    SELECT * FROM scored WHERE recall >= 0.2 AND lift >= 3 AND expected >= 0.1 * peak AND trim(token) <> ''
), triggers AS (
    SELECT layer, neuron, polarity, count(*) AS n_triggers, list(token_id) AS token_ids,
           sum(round(mass * 1048576)::BIGINT) / 1048576 AS cover,
           arg_max(trim(token), (expected, -token_id), 6) AS top,
           arg_max(format('{} ({:.0f}% of peak)', trim(token), 100 * expected / peak), (expected, -token_id), 20) AS evidence
    FROM chosen GROUP BY layer, neuron, polarity
), standing AS (
    SELECT e.layer, e.neuron, e.polarity, e.rank, c.token_ids[e.position + 1] AS token_id,
           trim(CASE WHEN e.position > 0 THEN coalesce(b.token, '') ELSE '' END || coalesce(v.token, '')) AS shown
    FROM exemplars e
    JOIN contexts c USING (context_id)
    LEFT JOIN vocab v ON v.token_id = c.token_ids[e.position + 1]
    LEFT JOIN vocab b ON b.token_id = c.token_ids[e.position]
    WHERE e.stratum = 0 AND e.rank < 10
), texts AS (
    SELECT layer, neuron, polarity, arg_min(shown, first_rank, 3) AS seen
    FROM (SELECT layer, neuron, polarity, shown, min(rank) AS first_rank FROM standing GROUP BY ALL)
    GROUP BY layer, neuron, polarity
), hits AS (
    SELECT s.layer, s.neuron, s.polarity, avg((list_contains(t.token_ids, s.token_id))::INTEGER) AS on_trigger
    FROM standing s JOIN triggers t USING (layer, neuron, polarity) GROUP BY ALL
), said AS (
    SELECT s.layer, s.neuron, s.polarity, s.fired, s.extreme, t.cover, t.n_triggers, t.top, t.evidence, x.seen,
           coalesce(h.on_trigger, 0) AS on_trigger, s.strongest < 0.01 * st.typical AS dead, s.fired = 0 AS silent,
           CASE WHEN s.polarity < 0 THEN ' (negative)' ELSE '' END AS sign
    FROM signs s JOIN strength st USING (layer)
    LEFT JOIN triggers t USING (layer, neuron, polarity)
    LEFT JOIN texts x USING (layer, neuron, polarity)
    LEFT JOIN hits h USING (layer, neuron, polarity)
), judged AS (
    SELECT *, CASE WHEN dead THEN 'dead' WHEN on_trigger >= 0.5 THEN 'tokens' WHEN seen IS NOT NULL THEN 'context'
                   ELSE 'diffuse' END AS kind
    FROM said WHERE dead OR NOT silent
)
SELECT layer, neuron, 'input' AS "pass", polarity,
       CASE kind WHEN 'dead' THEN 'dead: hardly ever active'
                 WHEN 'tokens' THEN 'fires on ' || array_to_string(top, ', ') || sign
                 WHEN 'context' THEN 'fires in context: ' || array_to_string(seen, ' | ') || sign
                 ELSE 'fires on many different tokens' || sign END AS label,
       CASE kind WHEN 'dead' THEN 'dead' WHEN 'tokens' THEN array_to_string(top[1:3], ', ')
                 WHEN 'context' THEN array_to_string(seen[1:2], ' | ') ELSE 'dense' END AS short_label,
       CASE kind WHEN 'dead' THEN format('largest activation {:.3g}, under 1% of the layer''s median', extreme::DOUBLE)
                 WHEN 'tokens' THEN format('{} trigger tokens explain {:.0f}% of the strong activation in {} firings and '
                      || '{:.0f}% of the ten strongest exemplars; mean activation per use: ', n_triggers, 100 * cover, fired,
                      100 * on_trigger) || array_to_string(evidence, '; ')
                 ELSE format('{} strong firings; trigger tokens explain {:.0f}% of the ten strongest exemplars', fired,
                      100 * on_trigger) || coalesce(', weaker triggers: ' || array_to_string(evidence, '; '), '')
            END AS description,
       CASE WHEN kind = 'context' THEN 'context' WHEN kind = 'tokens' AND cover >= 0.5 THEN 'token-pattern'
            ELSE 'combination' END AS type,
       CASE WHEN kind = 'tokens' AND cover >= 0.8 AND on_trigger >= 0.9 THEN 'high'
            WHEN kind = 'tokens' AND cover >= 0.4 THEN 'medium' ELSE 'low' END AS interpretability,
       'rule' AS confidence, 'ok' AS status, 'rule:tokens' AS source, 'rule:tokens/2' AS model, '2' AS prompt_version,
       'rules' AS run
FROM judged
ORDER BY layer, neuron, polarity DESC
