-- The temporary table label_ranks of one layer -> the label of every neuron, pass and sign that stands first, those of a
-- neuron in their order, with what is known of its activations. Blank labels (white space and NUL only) are none.
-- source: only labels of this source, 'rule' for all 'rule:...'; NULL for all. longest: characters of a label.
SELECT l.layer, l.neuron, l."pass", l.polarity, l.label, l.short_label, l.description, l.type, l.interpretability,
       l.confidence, l.source, l.model, l.prompt_version, l.prompt_hash, l.run, l.score, l.created,
       n.max_activation, n.num_exemplars
FROM label_ranks l LEFT JOIN neurons n ON n.layer = l.layer AND n.neuron = l.neuron
WHERE ($source IS NULL OR l.source = $source OR starts_with(l.source, $source || ':'))
  AND length(l.label) <= $longest AND regexp_matches(l.label, '[^\x00\x09-\x0d\x1c-\x20\x{85}\pZ]')
QUALIFY row_number() OVER (PARTITION BY l.neuron, l."pass", l.polarity ORDER BY l.place) = 1
ORDER BY l.neuron, l.place
