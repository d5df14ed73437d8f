-- edges_in lies on disk by target, each target's ranks from 1 on: look-ups by target read few row groups.
SELECT place, tgt, src, rank, previous_tgt, previous_rank
FROM (
    SELECT rowid AS place, tgt, src, rank, lag(tgt) OVER () AS previous_tgt, lag(rank) OVER () AS previous_rank FROM edges_in
)
WHERE rank IS NULL OR tgt < previous_tgt
   OR rank <> CASE WHEN tgt = previous_tgt THEN previous_rank + 1 ELSE 1 END
ORDER BY place;
