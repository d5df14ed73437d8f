-- New scores (new_scores) -> labels.score: of each label that was tested, the score of the first of $methods.
UPDATE labels SET score = best.score
FROM (
    SELECT layer, neuron, "pass", polarity, source, run, label, arg_min(score, list_position($methods, method)) AS score
    FROM new_scores GROUP BY ALL
) AS best
WHERE labels.layer = best.layer AND labels.neuron = best.neuron AND labels."pass" = best."pass"
      AND labels.polarity IS NOT DISTINCT FROM best.polarity AND labels.source IS NOT DISTINCT FROM best.source
      AND labels.run IS NOT DISTINCT FROM best.run AND labels.label = best.label
