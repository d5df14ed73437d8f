-- Labels of one layer -> the same with their kind and their place among the labels of their neuron, 1 = shown first.
-- precedence: kinds (manual, two-pass, autointerp, rule) and, if wanted, sources ('import:FILE', 'llm', 'rule:NAME')
-- and runs ('run:NAME'), first = best; the most specific entry that a label fits counts. Within one place: the leading
-- pass (output of two-pass labels, input of rules), the sign with the larger activation, interpretability, score, the
-- newest; the rest of the order only makes it one order. Rows whose status is not ok are never chosen.
WITH stats AS (
    SELECT neuron, min, max FROM neuron_stats WHERE layer = $layer
), kinds AS (
    SELECT l.*, coalesce(s.max, 0) >= -coalesce(s.min, 0) AS mostly_positive,
           CASE WHEN source = 'manual' OR "pass" = 'manual' THEN 'manual' WHEN source LIKE 'rule:%' THEN 'rule'
                WHEN "pass" = 'autointerp' THEN 'autointerp' ELSE 'two-pass' END AS kind
    FROM labels l LEFT JOIN stats s USING (neuron) WHERE layer = $layer AND status = 'ok' AND label IS NOT NULL
)
SELECT *, row_number() OVER (
    PARTITION BY neuron
    ORDER BY coalesce(list_position($precedence, 'run:' || run), list_position($precedence, source),
                      list_position($precedence, kind)) NULLS LAST,
             ("pass" = 'input') IS DISTINCT FROM (kind = 'rule'), polarity <> 0 AND (polarity > 0) <> mostly_positive,
             CASE interpretability WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END, coalesce(score, 0) DESC,
             created DESC NULLS LAST, source, polarity DESC, label, "pass", description, run, model, prompt_hash) AS place
FROM kinds
