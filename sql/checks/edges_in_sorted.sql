-- edges_in lies on disk in the order (tgt, src) without repetition: look-ups by target read few row groups.
SELECT place, tgt, src, previous_tgt, previous_src
FROM (
    SELECT rowid AS place, tgt, src, lag(tgt) OVER () AS previous_tgt, lag(src) OVER () AS previous_src FROM edges_in
)
WHERE tgt < previous_tgt OR (tgt = previous_tgt AND src <= previous_src)
ORDER BY place;
