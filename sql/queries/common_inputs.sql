-- Neurons that feed several neurons of a set, with the chance that so many hits come about by degree alone.
-- of_ids: packed ids of the set. at_least_hits: fewest members fed. at_least_count: fewest observations of an edge; edges
-- below it do not exist for this question. max_rows: limit; NULL for all.
-- of_senders, of_receivers: by layer from 0, the number of neurons with an outgoing / incoming edge; NULL counts them here
-- (common_populations gives them; a count over all edges takes seconds where there are many).
-- hits: members fed, members: which, by id. sign_agreement: share of the hits whose mean weight has the commoner sign.
-- degree: all edges out of the partner. reach: those of them that end in the members' layers.
-- Null model, matched by layer: the partner's `reach` edges end at random, without repetition, in the neurons of the
-- members' layers after its own that have any incoming edge. expected = hits under it, p = P(X >= hits), hypergeometric.
-- q: Benjamini-Hochberg over all neurons with an outgoing edge before the last of the members' layers; those with fewer
-- than at_least_hits hits count with p = 1. Ordered by p, then hits, then weight_abs_sum.
-- p is a product of ratios, not of factorials: lgamma of millions would leave 8 digits of it.
-- Try: FROM common_inputs([10, 11], at_least_hits := 1)
CREATE OR REPLACE MACRO common_inputs(
    of_ids, at_least_hits := 2, at_least_count := 1, of_senders := NULL, of_receivers := NULL, max_rows := 20
) AS TABLE
WITH chosen AS MATERIALIZED (
    SELECT feature_id::INTEGER AS id, layer, 'L' || layer || '/N' || neuron AS name
    FROM neurons WHERE feature_id IN (SELECT unnest(of_ids)::BIGINT)
), width AS (
    SELECT max(neuron) + 1 AS d FROM neurons
), receivers AS MATERIALIZED (
    SELECT unnest(range(len(of_receivers))) AS layer, unnest(of_receivers::BIGINT[]) AS n
    UNION ALL (SELECT tgt // (FROM width), count(DISTINCT tgt) FROM edges
        WHERE of_receivers IS NULL AND count >= at_least_count GROUP BY ALL)
), senders AS (
    SELECT unnest(range(len(of_senders))) AS layer, unnest(of_senders::BIGINT[]) AS n
    UNION ALL (SELECT src // (FROM width), count(DISTINCT src) FROM edges
        WHERE of_senders IS NULL AND count >= at_least_count GROUP BY ALL)
), fed AS (
    SELECT tgt FROM edges_in WHERE at_least_count <= 1 AND tgt IN (SELECT id FROM chosen)
    UNION ALL (SELECT tgt FROM edges
        WHERE at_least_count > 1 AND count >= at_least_count AND tgt IN (SELECT id FROM chosen)
            AND src IN (SELECT src FROM edges_in WHERE tgt IN (SELECT id FROM chosen)))
), layers AS MATERIALIZED (  -- the members' layers: members that can be fed, neurons that can
    SELECT c.layer, c.members, r.n
    FROM (SELECT layer, count(*) AS members FROM chosen WHERE id IN (FROM fed) GROUP BY layer) AS c
    JOIN receivers AS r USING (layer)
), candidates AS (
    SELECT src FROM edges_in WHERE tgt IN (SELECT id FROM chosen) GROUP BY src HAVING count(*) >= at_least_hits
), found AS MATERIALIZED (
    SELECT
        e.src, count(*) AS degree, count(l.layer) AS reach, count(c.id) AS hits, list(c.name ORDER BY c.id) FILTER (c.id IS NOT NULL) AS members,
        count(*) FILTER (c.id IS NOT NULL AND e.weight_sum > 0) AS positive,
        count(*) FILTER (c.id IS NOT NULL AND e.weight_sum < 0) AS negative,
        sum(e.weight_abs_sum::DOUBLE::DECIMAL(38, 18)) FILTER (c.id IS NOT NULL)::DOUBLE AS weight_abs_sum,
        sum((e.weight_abs_sum::DOUBLE / e.count)::DECIMAL(38, 18)) FILTER (c.id IS NOT NULL)::DOUBLE AS mean_sum
    FROM edges AS e
    LEFT JOIN chosen AS c ON c.id = e.tgt
    LEFT JOIN layers AS l ON l.layer = e.tgt // (FROM width)
    WHERE e.src IN (SELECT unnest((SELECT list(src) FROM candidates))) AND e.count >= at_least_count
    GROUP BY e.src
    HAVING count(c.id) >= at_least_hits
), urns AS MATERIALIZED (  -- N neurons that can be hit, k of them members, d draws, h hits
    SELECT f.src, f.hits AS h, f.reach AS d, sum(l.members)::BIGINT AS k, sum(l.n)::BIGINT AS n
    FROM found AS f JOIN layers AS l ON l.layer > f.src // (FROM width)
    GROUP BY ALL
), chances AS (
    SELECT
        src, d * k / n AS expected,
        least(1, exp(  -- P(X = h), then the tail by Horner's scheme over the ratios P(X = i + 1) / P(X = i)
            coalesce(list_sum(list_transform(range(h), lambda i: ln((k - i)::DOUBLE * (d - i) / (i + 1) / (n - i)))), 0)
            + coalesce(list_sum(list_transform(range(k - h), lambda i: ln((n - d - i)::DOUBLE / (n - h - i)))), 0)
        ) * list_reduce(
            range(least(k, d) - 1, h - 1, -1)::DOUBLE[],
            lambda tail, i: 1 + tail * (k - i) * (d - i) / (i + 1) / (n - k - d + i + 1), 1::DOUBLE
        )) AS p
    FROM urns
), corrected AS (
    SELECT
        src, expected, p,
        min(least(1, p * (SELECT sum(n) FROM senders WHERE layer < (SELECT max(layer) FROM layers)) / place)) OVER (
            ORDER BY place DESC, src ROWS UNBOUNDED PRECEDING) AS q
    FROM (SELECT *, row_number() OVER (ORDER BY p, src) AS place FROM chances)
)
SELECT
    n.layer, n.neuron, n.label, n.cluster_path, f.hits, c.expected, c.p, c.q,
    f.members, f.weight_abs_sum, f.mean_sum / f.hits AS mean_abs_weight, greatest(f.positive, f.negative) / f.hits AS sign_agreement,
    f.degree, f.reach, f.src AS id
FROM found AS f
JOIN corrected AS c ON c.src = f.src
LEFT JOIN neurons AS n ON n.feature_id = f.src
ORDER BY c.p, f.hits DESC, f.weight_abs_sum DESC, f.src
LIMIT max_rows;
