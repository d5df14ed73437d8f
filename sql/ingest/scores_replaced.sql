-- Scores of label_scores that new ones (new_scores) take the place of: of the same label and method.
DELETE FROM label_scores s USING new_scores n
WHERE s.layer = n.layer AND s.neuron = n.neuron AND s.method = n.method AND s."pass" = n."pass"
      AND s.polarity IS NOT DISTINCT FROM n.polarity AND s.source IS NOT DISTINCT FROM n.source
      AND s.run IS NOT DISTINCT FROM n.run
