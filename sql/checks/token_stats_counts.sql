-- Strong firings on one token are at least 1 and at most all strong firings of the neuron with that sign; each token once.
SELECT t.layer, t.neuron, t.polarity, t.token_id, t.n, s.n_fired_pos, s.n_fired_neg
FROM token_stats AS t
LEFT JOIN neuron_stats AS s ON s.layer = t.layer AND s.neuron = t.neuron
WHERE s.layer IS NULL OR t.n IS NULL OR t.n < 1 OR t.polarity NOT IN (-1, 1)
   OR t.n > CASE WHEN t.polarity > 0 THEN s.n_fired_pos ELSE s.n_fired_neg END
   OR t.min > t.max
   OR t."sum" > t.n * t.max::DOUBLE + 1e-5 * abs(t."sum") + 1e-9
   OR t."sum" < t.n * t.min::DOUBLE - 1e-5 * abs(t."sum") - 1e-9
UNION ALL
SELECT layer, neuron, polarity, token_id, count(*), NULL, NULL
FROM token_stats
GROUP BY layer, neuron, polarity, token_id
HAVING count(*) > 1
ORDER BY ALL;
