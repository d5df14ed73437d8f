-- A connection's polarity is the sign of the strength its list is ranked by.
SELECT layer, neuron, direction, polarity, rank, effective_strength
FROM wiring
WHERE polarity NOT IN (-1, 1) OR polarity IS NULL OR effective_strength IS NULL
   OR sign(effective_strength) <> polarity
ORDER BY ALL;
