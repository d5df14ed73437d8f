-- Families of the logit lens -> output labels by rule for layers $first to $last: what a firing promotes and suppresses
-- directly. It is said of the sign with the larger activation: half of all gated activations are negative, and a negative
-- one promotes what a positive one suppresses.
-- focus = how far the strongest token stands out from the last of the 20; under 1.5 the readout is hardly about tokens.
WITH peaks AS (
    SELECT layer, neuron, CASE WHEN coalesce(-min > max, false) THEN -1 ELSE 1 END AS side FROM neuron_stats
    WHERE layer BETWEEN $first AND $last
), edges AS (
    SELECT (list >> 32)::INTEGER AS layer, ((list & 4294967295) >> 3)::INTEGER AS neuron, ((list & 7) - 2)::TINYINT AS polarity,
           max(expected) / nullif(min(expected), 0) AS focus, max(expected) AS size
    FROM rule_lists GROUP BY list
), sided AS (
    SELECT f.*, e.focus, e.size, coalesce(p.side, 1) AS side, f.polarity = coalesce(p.side, 1) AS promotes
    FROM rule_families f JOIN edges e USING (layer, neuron, polarity) LEFT JOIN peaks p USING (layer, neuron)
), told AS (
    SELECT layer, neuron, any_value(side) AS side,
           any_value(words) FILTER (promotes) AS promoted, any_value(other_words) FILTER (promotes) AS also,
           any_value(words) FILTER (NOT promotes) AS suppressed, any_value(shared) FILTER (promotes) AS shared,
           any_value(shared) FILTER (NOT promotes) AS shared_suppressed, any_value(alike) FILTER (promotes) AS alike,
           any_value(focus) FILTER (promotes) AS focus,
           coalesce(any_value(size) FILTER (NOT promotes) > 1.5 * any_value(size) FILTER (promotes),
                    any_value(words) FILTER (promotes) IS NULL) AS mostly_suppresses
    FROM sided GROUP BY layer, neuron
), named AS (
    SELECT *, CASE WHEN mostly_suppresses THEN suppressed ELSE promoted END AS said,
           CASE WHEN mostly_suppresses THEN shared_suppressed ELSE shared END AS said_shared,
           CASE WHEN side < 0 THEN ' (negative)' ELSE '' END AS suffix
    FROM told
)
SELECT layer, neuron, 'output' AS "pass", 0 AS polarity,
       CASE WHEN mostly_suppresses THEN 'suppresses ' ELSE 'promotes ' END || array_to_string(said[1:5], ', ')
           || coalesce(' (' || said_shared || ')', '') || suffix AS label,
       array_to_string(said[1:3], ', ') AS short_label,
       format('logit lens, final norm weight folded in: {} activation promotes {}{}; suppresses {}; strongest is {:.2f} times the last of 20',
              CASE WHEN side < 0 THEN 'a negative' ELSE 'a positive' END,
              coalesce(array_to_string(promoted[1:10], ', '), 'nothing'),
              coalesce(' (others: ' || array_to_string(also, ', ') || ')', ''),
              coalesce(array_to_string(suppressed[1:10], ', '), 'nothing'), coalesce(focus, 1)) AS description,
       'lexical' AS type,
       CASE WHEN focus >= 2 AND alike THEN 'medium' ELSE 'low' END AS interpretability,
       'rule' AS confidence, 'ok' AS status, 'rule:logit_lens' AS source, 'rule:logit_lens/2' AS model,
       '2' AS prompt_version, 'rules' AS run
FROM named WHERE said IS NOT NULL
ORDER BY layer, neuron
