-- Tokens that fire a neuron strongly -> input labels by rule, one per neuron and sign.
-- A token counts as a trigger when the neuron fires on at least 20% of its occurrences and 3 times as often as chance;
-- triggers are ordered by |sum| / occurrences, the expected strong activation per occurrence of the token.
-- cover = share of the strong activation (sum of |a| over firings) that the triggers explain.
WITH corpus AS (
    SELECT sum(count)::DOUBLE AS total FROM vocab
), strength AS (
    SELECT layer, median(greatest(max, -min)) AS typical FROM neuron_stats GROUP BY layer
), signs AS (
    SELECT layer, neuron, 1 AS polarity, n_fired_pos AS fired, max AS extreme, greatest(max, -min) AS strongest FROM neuron_stats
    UNION ALL
    SELECT layer, neuron, -1, n_fired_neg, min, greatest(max, -min) FROM neuron_stats
), scored AS (
    SELECT t.*, v.token, t.n / s.fired::DOUBLE AS precision, t.n / v.count::DOUBLE AS recall,
           (t.n / s.fired::DOUBLE) / (v.count / corpus.total) AS lift, abs(t.sum) / v.count AS expected,
           abs(t.sum) / sum(abs(t.sum)) OVER (PARTITION BY t.layer, t.neuron, t.polarity ORDER BY t.token_id
               ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS mass, abs(s.extreme) AS peak
    FROM token_stats t JOIN signs s USING (layer, neuron, polarity) JOIN vocab v USING (token_id), corpus
), triggers AS (
    SELECT layer, neuron, polarity, count(*) AS n_triggers, sum(round(mass * 1048576)::BIGINT) / 1048576 AS cover,
           arg_max(trim(token), (expected, -token_id), 6) AS top,
           arg_max(format('{} ({:.0f}% of peak)', trim(token), 100 * expected / peak),
                   (expected, -token_id), 20) AS evidence
    FROM scored WHERE recall >= 0.2 AND lift >= 3 AND trim(token) <> '' GROUP BY layer, neuron, polarity
), said AS (
    SELECT s.layer, s.neuron, s.polarity, s.fired, s.extreme, t.cover, t.n_triggers, t.top, t.evidence,
           s.strongest < 0.01 * st.typical AS dead, s.fired = 0 AS silent, t.top IS NULL AS diffuse
    FROM signs s JOIN strength st USING (layer) LEFT JOIN triggers t USING (layer, neuron, polarity)
)
SELECT layer, neuron, 'input' AS "pass", polarity,
       CASE WHEN dead THEN 'dead: hardly ever active'
            WHEN diffuse THEN 'fires on many different tokens'
            ELSE 'fires on ' || array_to_string(top, ', ') END || CASE WHEN polarity < 0 AND NOT dead THEN ' (negative)' ELSE '' END AS label,
       CASE WHEN dead THEN 'dead' WHEN diffuse THEN 'dense' ELSE array_to_string(top[1:3], ', ') END AS short_label,
       CASE WHEN dead THEN format('largest activation {:.3g}, under 1% of the layer''s median', extreme::DOUBLE)
            WHEN diffuse THEN format('{} strong firings, no token with recall 20% and lift 3', fired)
            ELSE format('{} trigger tokens explain {:.0f}% of the strong activation in {} firings; mean activation per use: ', n_triggers, 100 * cover, fired)
                 || array_to_string(evidence, '; ') END AS description,
       CASE WHEN NOT diffuse AND cover >= 0.5 THEN 'token-pattern' ELSE 'combination' END AS type,
       CASE WHEN dead OR diffuse OR cover < 0.4 THEN 'low' WHEN cover < 0.8 THEN 'medium' ELSE 'high' END AS interpretability,
       'rule' AS confidence, 'ok' AS status, 'rule:tokens' AS source, 'rule:tokens/1' AS model, '1' AS prompt_version,
       'rules' AS run
FROM said WHERE dead OR NOT silent
ORDER BY layer, neuron, polarity DESC
