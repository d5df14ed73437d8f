-- Families of trigger tokens, strongest exemplars and activation sums -> input labels by rule for layers $first to $last,
-- one per neuron and sign. The ten strongest exemplars of texts that labels may be made from (temporary table rule_texts)
-- decide which rule speaks, the first that applies:
-- dead: never over 1% of the layer's median peak. bos: at the first position three times its peak anywhere else.
-- token, tokens: at least half of them stand on trigger tokens, or the family of triggers (rule_families) has 5 tokens
-- and a tenth of the strong activation; the label names the family.
-- sequence: four fifths of at least 6 stand on one token, or follow one. position: as many stand on the first 3 counted
-- positions of their context.
-- dense: no sharper than a Gaussian (fourth moment at most 3 times the squared second). context: none of these.
WITH corpus AS (
    SELECT (SELECT sum(count) FROM vocab)::DOUBLE AS total, (SELECT count(*) FROM contexts) AS texts
), strength AS (
    SELECT layer, median(greatest(max, -min)) AS typical FROM neuron_stats WHERE layer BETWEEN $first AND $last GROUP BY layer
), stats AS (
    SELECT layer, neuron, n_tokens, n_fired_pos, n_fired_neg, min, max, greatest(max, -min) AS strongest,
           s4 * n_tokens / nullif(s2 * s2, 0) AS sharpness
    FROM neuron_stats WHERE layer BETWEEN $first AND $last
), signs AS (
    SELECT *, 1 AS polarity, n_fired_pos AS fired, max AS extreme FROM stats
    UNION ALL
    SELECT *, -1, n_fired_neg, min FROM stats
), standing AS (
    SELECT e.layer, e.neuron, e.polarity, e.place AS rank, e.position, c.token_ids[e.position + 1] AS token_id, v.word,
           CASE WHEN e.position > 0 THEN b.word END AS before
    FROM (
        SELECT layer, neuron, polarity, position, context_id,
               row_number() OVER (PARTITION BY layer, neuron, polarity ORDER BY rank) AS place
        FROM exemplars SEMI JOIN rule_texts USING (context_id)
        WHERE layer BETWEEN $first AND $last AND stratum = 0
        QUALIFY place <= 10
    ) e
    JOIN contexts c USING (context_id)
    LEFT JOIN rule_words v ON v.token_id = c.token_ids[e.position + 1]
    LEFT JOIN rule_words b ON b.token_id = c.token_ids[e.position]
), texts AS (
    SELECT layer, neuron, polarity, arg_min(shown, first_rank, 3) AS seen
    FROM (SELECT layer, neuron, polarity, concat_ws(' ', before, word) AS shown, min(rank) AS first_rank
          FROM standing GROUP BY ALL)
    GROUP BY layer, neuron, polarity
), words AS (
    SELECT layer, neuron, polarity, word, count(*) AS n, min(rank) AS first_rank FROM standing GROUP BY ALL
), befores AS (
    SELECT layer, neuron, polarity, before, count(*) AS n, min(rank) AS first_rank FROM standing GROUP BY ALL
), sequences AS (
    SELECT layer, neuron, polarity, max(w.n) AS same, arg_min(w.word, w.first_rank - 100 * w.n) AS word,
           arg_min(w.word, w.first_rank, 5) AS all_words
    FROM words w GROUP BY layer, neuron, polarity
), preceding AS (
    SELECT layer, neuron, polarity, max(n) AS same_before, arg_min(before, first_rank - 100 * n) AS before,
           arg_min(before, first_rank, 5) FILTER (before IS NOT NULL) AS all_befores
    FROM befores GROUP BY layer, neuron, polarity
), hits AS (
    SELECT s.layer, s.neuron, s.polarity, count(*) AS shown, count(*) FILTER (s.position <= 3) AS early,
           coalesce(avg(list_contains(t.trigger_ids, s.token_id)::INTEGER), 0) AS on_trigger,
           coalesce(avg(list_contains(f.token_ids, s.token_id)::INTEGER), 0) AS on_family
    FROM standing s LEFT JOIN rule_sums t USING (layer, neuron, polarity)
    LEFT JOIN rule_families f USING (layer, neuron, polarity) GROUP BY ALL
), first_position AS (
    SELECT layer, neuron, sign("window"[1])::TINYINT AS polarity, max(abs("window"[1])) AS at_first
    FROM exemplars SEMI JOIN rule_texts USING (context_id)
    WHERE layer BETWEEN $first AND $last AND window_start = 0 AND position > 0 GROUP BY ALL
), said AS (
    SELECT s.*, t.n_triggers, f.alike, f.words AS family, f.sizes, f.other_words, f.other_sizes, f.shared,
           f.share / t.total AS cover, h.on_trigger, h.on_family, h.shown, h.early, x.seen, q.same, q.word, q.all_words,
           p.same_before, p.before, p.all_befores, b.at_first, s.strongest < 0.01 * st.typical AS dead,
           least(3 * corpus.texts / corpus.total, 1) AS early_share
    FROM signs s JOIN strength st USING (layer) CROSS JOIN corpus
    LEFT JOIN rule_sums t USING (layer, neuron, polarity)
    LEFT JOIN rule_families f USING (layer, neuron, polarity)
    LEFT JOIN hits h USING (layer, neuron, polarity)
    LEFT JOIN texts x USING (layer, neuron, polarity)
    LEFT JOIN sequences q USING (layer, neuron, polarity)
    LEFT JOIN preceding p USING (layer, neuron, polarity)
    LEFT JOIN first_position b USING (layer, neuron, polarity)
), judged AS (
    SELECT *, CASE WHEN dead THEN 'dead' WHEN at_first >= 3 * strongest THEN 'bos'
                   WHEN on_trigger >= 0.5 AND len(family) = 1 THEN 'token' WHEN on_trigger >= 0.5 OR cover >= 0.1 AND len(family) >= 5 THEN 'tokens'
                   WHEN shown >= 6 AND 5 * greatest(same, same_before) >= 4 * shown THEN 'sequence'
                   WHEN shown >= 6 AND 5 * early >= 4 * shown AND early_share <= 0.25 THEN 'position'
                   WHEN sharpness <= 3 OR seen IS NULL THEN 'dense' ELSE 'context' END AS kind,
           CASE WHEN polarity < 0 THEN ' (negative)' ELSE '' END AS suffix
    FROM said WHERE dead OR fired > 0 OR at_first >= 3 * strongest
), told AS (
    SELECT *, array_to_string(family[1:5], ', ') || coalesce(' (' || shared || ')', '') AS named,
           array_to_string(list_transform(list_zip(family[1:10], sizes[1:10]),
               lambda z: format('{} ({:.0f}% of peak)', z[1], 100 * z[2])), '; ') AS evidence,
           array_to_string(list_transform(list_zip(other_words, other_sizes),
               lambda z: format('{} ({:.0f}% of peak)', z[1], 100 * z[2])), '; ') AS others
    FROM judged
)
SELECT layer, neuron, 'input' AS "pass", polarity,
       CASE kind WHEN 'dead' THEN 'dead: hardly ever active' WHEN 'bos' THEN 'fires on the first position of a text'
                 WHEN 'position' THEN 'fires at the beginning of a text: ' || array_to_string(all_words[1:3], ', ')
                 WHEN 'dense' THEN 'fires on many different tokens' WHEN 'context' THEN 'fires in context: ' || array_to_string(seen, ' | ')
                 WHEN 'sequence' THEN CASE WHEN 5 * same >= 4 * shown THEN format('fires on {} after ', word) || array_to_string(all_befores[1:3], ', ')
                                           ELSE format('fires after {} on ', before) || array_to_string(all_words, ', ') END
                 ELSE 'fires on ' || named END
       || CASE kind WHEN 'dead' THEN '' ELSE suffix END AS label,
       CASE kind WHEN 'dead' THEN 'dead' WHEN 'bos' THEN 'first position' WHEN 'position' THEN 'beginning of a text'
                 WHEN 'dense' THEN 'dense' WHEN 'context' THEN array_to_string(seen[1:2], ' | ')
                 WHEN 'sequence' THEN CASE WHEN 5 * same >= 4 * shown THEN word || ' after ' || coalesce(all_befores[1], 'nothing')
                                           ELSE before || ' ' || all_words[1] END
                 ELSE array_to_string(family[1:3], ', ') END AS short_label,
       CASE kind WHEN 'dead' THEN format('largest activation {:.3g}, under 1% of the layer''s median', extreme::DOUBLE)
                 WHEN 'bos' THEN format('{:.3g} at the first position, {:.1f} times the peak elsewhere', at_first::DOUBLE, at_first / strongest::DOUBLE)
                 WHEN 'position' THEN format('{} of the {} strongest exemplars stand on the first 3 counted positions, which are {:.1f}% of all',
                      early, shown, 100 * early_share)
                 WHEN 'sequence' THEN format('of the {} strongest exemplars {} stand on "{}" and {} follow "{}"', shown, same, word,
                      same_before, coalesce(before, 'nothing'))
                 WHEN 'dense' THEN format('{} strong firings; fourth moment {:.1f} times the squared second (3 = Gaussian)', fired,
                      coalesce(sharpness, 0))
                 WHEN 'context' THEN format('{} strong firings; trigger tokens explain {:.0f}% of {} strongest exemplars', fired,
                      100 * on_trigger, coalesce(shown, 0)) || coalesce(', weaker triggers: ' || nullif(evidence, ''), '')
                 ELSE format('{} of {} trigger tokens{} explain {:.0f}% of the strong activation in {} firings and {:.0f}% of '
                      || '{} strongest exemplars; mean activation per use: ', len(family), n_triggers,
                      CASE WHEN alike THEN ', alike by what else fires on them,' ELSE '' END, 100 * cover, fired, 100 * on_family, coalesce(shown, 0))
                      || evidence || CASE WHEN others <> '' THEN '; others: ' || others ELSE '' END
            END AS description,
       CASE WHEN kind IN ('bos', 'position') THEN 'position' WHEN kind IN ('context', 'sequence') THEN 'context'
            WHEN kind IN ('token', 'tokens') AND cover >= 0.3 THEN 'token-pattern' ELSE 'combination' END AS type,
       CASE WHEN kind = 'bos' OR kind IN ('token', 'tokens') AND cover >= 0.7 AND on_family >= 0.9 THEN 'high'
            WHEN kind = 'position' OR kind = 'sequence' AND 2 * least(same, same_before) >= shown OR kind IN ('token', 'tokens') AND cover >= 0.2 AND on_family >= 0.5
            THEN 'medium' ELSE 'low' END AS interpretability,
       'rule' AS confidence, 'ok' AS status, 'rule:' || kind AS source, 'rule:' || kind || '/4' AS model,
       '4' AS prompt_version, 'rules' AS run
FROM told
ORDER BY layer, neuron, polarity DESC
