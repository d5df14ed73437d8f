-- edges lies on disk in the order (src, tgt) without repetition: look-ups by source read few row groups.
SELECT place, src, tgt, previous_src, previous_tgt
FROM (
    SELECT rowid AS place, src, tgt, lag(src) OVER () AS previous_src, lag(tgt) OVER () AS previous_tgt FROM edges
)
WHERE src < previous_src OR (src = previous_src AND tgt <= previous_tgt)
ORDER BY place;
