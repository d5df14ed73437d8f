-- Activation statistics are possible: one row per neuron that exists, counts within n_tokens, the histogram holds every position, min <= mean <= max.
SELECT s.layer, s.neuron, s.n_tokens, s.n_active, s.n_fired_pos, s.n_fired_neg, s.min, s.max
FROM neuron_stats AS s
LEFT JOIN neurons AS n ON n.layer = s.layer AND n.neuron = s.neuron
WHERE n.layer IS NULL OR s.n_active > s.n_tokens OR s.n_fired_pos > s.n_tokens OR s.n_fired_neg > s.n_tokens
   OR s.n_active < 0 OR s.n_fired_pos < 0 OR s.n_fired_neg < 0
   OR list_sum(s.hist) <> s.n_tokens
   OR s.s1 / nullif(s.n_tokens, 0) < s.min - 1e-5 * abs(s.min)
   OR s.s1 / nullif(s.n_tokens, 0) > s.max + 1e-5 * abs(s.max)
   OR abs(s.s1) > s.abs_sum * (1 + 1e-9) OR s.s2 < 0 OR s.s4 < 0
UNION ALL
SELECT layer, neuron, count(*), NULL, NULL, NULL, NULL, NULL
FROM neuron_stats GROUP BY layer, neuron HAVING count(*) > 1
ORDER BY ALL;
