"""Every check passes on a sound atlas and fails on one that is broken in its way."""

import shutil
from pathlib import Path

import pytest
from synthetic import drawn, small  # noqa: F401

import atlas
from atlas.store.connection import open_reader, open_writer
from atlas.store.sqlfiles import header, sql_files, sql_text

BREAKS = [
    ("neurons_complete", "DELETE FROM neurons WHERE layer = 1 AND neuron = 0"),
    ("neurons_complete", "INSERT INTO neurons SELECT * FROM neurons WHERE feature_id = 3"),
    ("neurons_complete", "UPDATE neurons SET neuron = 8 WHERE feature_id = 3"),
    ("neurons_complete", "DELETE FROM metadata WHERE key = 'num_layers'"),
    ("neurons_feature_id", "UPDATE neurons SET feature_id = 1000 WHERE feature_id = 3"),
    ("neurons_feature_id", "UPDATE neurons SET feature_id = NULL WHERE feature_id = 3"),
    ("edges_range", "UPDATE edges SET src_layer = 1 WHERE src = 0"),
    ("edges_range", "UPDATE edges SET tgt = 1 WHERE src = 0 AND tgt = 10"),  # the same layer
    ("edges_range", "UPDATE edges SET tgt = 24 WHERE src = 0 AND tgt = 10"),  # beyond the model
    ("edges_range", "UPDATE edges SET src = NULL WHERE src = 0 AND tgt = 10"),
    ("edges_sorted", "INSERT INTO edges BY NAME SELECT * EXCLUDE (tgt_layer, tgt_neuron, mean_weight, mean_abs_weight) "
                     "FROM edges WHERE src = 2"),
    ("edges_sorted", "UPDATE edges SET tgt = 10 WHERE src = 0 AND tgt = 11"),  # twice the same pair
    ("edges_in_sorted", "INSERT INTO edges_in VALUES (10, 0, 1)"),
    ("edges_in_sorted", "UPDATE edges_in SET rank = NULL WHERE rank = 1 AND tgt = 10"),
    ("edges_in_sorted", "UPDATE edges_in SET rank = rank + 1 WHERE tgt = 10"),
    ("edges_in_equal", "DELETE FROM edges_in WHERE src = 0 AND tgt = 10"),
    ("edges_in_equal", "UPDATE edges_in SET src = 3 WHERE src = 0 AND tgt = 10"),
    ("edges_in_equal", "UPDATE edges_in SET rank = 3 - rank WHERE tgt = 10 AND rank <= 2"),
    ("edge_totals_equal", "DELETE FROM edge_totals WHERE id = 10"),
    ("edge_totals_equal", "UPDATE edge_totals SET n_in = n_in + 1 WHERE id = 10"),
    ("edge_totals_equal", "UPDATE edge_totals SET weight_in = weight_in * 1.001 WHERE id = 10"),
    ("edge_totals_equal", "UPDATE edge_totals SET norm_in = 'NaN' WHERE id = 10"),
    ("edge_totals_equal", "UPDATE edge_totals SET norm_out = 0 WHERE id = 0"),
    ("edge_totals_equal", "INSERT INTO edge_totals VALUES (23, 0, 1, 0, 1, 0, 1)"),
    ("edges_top_equal", "UPDATE edges_top SET weight_abs_sum = 0.1 WHERE rank = 3"),
    ("edges_top_equal", "DELETE FROM edges_top WHERE rank = 1"),
    ("edges_top_equal", "UPDATE edges_top SET rank = 9 WHERE rank = 1"),
    ("edges_statistics", "UPDATE edges SET n_graphs = count + 1 WHERE src = 0"),
    ("edges_statistics", "UPDATE edges SET weight_abs_sum = abs(weight_sum) * 0.9 WHERE src = 0 AND tgt = 10"),
    ("edges_statistics", "UPDATE edges SET weight_max = 0.1 WHERE src = 0 AND tgt = 10"),
    ("edges_statistics", "UPDATE edges SET weight_sum = 'NaN' WHERE src = 0 AND tgt = 10"),
    ("edges_statistics", "UPDATE edges SET weight_sq_sum = 0.1 WHERE src = 0 AND tgt = 10"),
    ("edges_statistics", "UPDATE edges SET count = 0 WHERE src = 0 AND tgt = 10"),
    ("token_edges_statistics", "UPDATE token_edges SET token_id = 99"),
    ("token_edges_statistics", "UPDATE token_edges SET kind = 'other'"),
    ("token_edges_statistics", "UPDATE token_edges SET weight_abs_sum = 'inf'"),
    ("numbers_finite", "UPDATE neuron_stats SET s3 = 'NaN' WHERE layer = 0 AND neuron = 1"),
    ("numbers_finite", "UPDATE neurons SET max_activation = 'inf' WHERE feature_id = 1"),
    ("numbers_finite", "UPDATE exemplars SET \"window\" = ['NaN'::FLOAT]"),
    ("numbers_finite", "UPDATE token_stats SET sum = 'NaN'"),
    ("numbers_finite", "UPDATE logit_lens SET value = 'NaN'"),
    ("numbers_finite", "UPDATE read_tokens SET value = 'inf' WHERE rank = 1"),
    ("numbers_finite", "UPDATE wiring SET c_up = '-inf'"),
    ("numbers_finite", "UPDATE pruning SET importance = 'NaN'"),
    ("numbers_finite", "UPDATE labels SET score = 'NaN'"),
    ("numbers_finite", "UPDATE partitions SET flow = 'NaN'"),
    ("numbers_finite", "UPDATE cooccurrence SET lift = 'NaN'"),
    ("numbers_finite", "UPDATE neuron_graphs SET relevance = 'NaN'"),
    ("numbers_finite", "UPDATE graphs SET explained = 'NaN'"),
    ("numbers_finite", "UPDATE clusters SET internal_weight = 'NaN'"),
    ("numbers_finite", "UPDATE weight_stats SET l2_norm = 'NaN'"),
    ("impacts_consistent", "UPDATE impacts SET kl = -0.1 WHERE set_id = 's1'"),
    ("impacts_consistent", "UPDATE impacts SET mean_change = 0.2 WHERE set_id = 's1'"),
    ("impacts_consistent", "UPDATE impacts SET delta_nll = 'NaN' WHERE set_id = 's1'"),
    ("impacts_consistent", "UPDATE impacts SET kl_low = 1 WHERE set_id = 's1'"),
    ("impacts_consistent", "UPDATE impacts SET impact_score = 0.2 WHERE set_id = 's2'"),
    ("impacts_consistent", "UPDATE impacts SET safe_to_prune = false WHERE set_id = 's2'"),
    ("impacts_consistent", "UPDATE impacts SET safe_to_prune = NULL WHERE set_id = 's2'"),
    ("impacts_consistent", "UPDATE impacts SET tokens = 9999 WHERE set_id = 's2'"),
    ("impacts_consistent", "UPDATE impacts SET evidence = 'guessed' WHERE set_id = 's2'"),
    ("impacts_consistent", "UPDATE impacts SET neurons = [10, 2] WHERE set_id = 's4'"),
    ("impacts_consistent", "UPDATE impacts SET neurons = [24] WHERE set_id = 's1'"),
    ("impacts_consistent", "UPDATE impacts SET layer = NULL WHERE set_id = 's1'"),
    ("impacts_consistent", "INSERT INTO impacts SELECT * FROM impacts WHERE set_id = 's1'"),
    ("neuron_stats_consistent", "UPDATE neuron_stats SET n_active = 801 WHERE layer = 0 AND neuron = 1"),
    ("neuron_stats_consistent", "UPDATE neuron_stats SET n_tokens = 801 WHERE layer = 0 AND neuron = 1"),
    ("neuron_stats_consistent", "UPDATE neuron_stats SET s1 = 790, max = 0.5 WHERE layer = 0 AND neuron = 1"),
    ("neuron_stats_consistent", "INSERT INTO neuron_stats SELECT * FROM neuron_stats WHERE layer = 0 AND neuron = 1"),
    ("exemplars_ranked", "DELETE FROM exemplars WHERE layer = 0 AND polarity = 1 AND rank = 0"),
    ("exemplars_ranked", "UPDATE exemplars SET activation = 9 WHERE layer = 0 AND polarity = 1 AND rank = 1"),
    ("exemplars_ranked", "UPDATE exemplars SET activation = -activation"),
    ("exemplars_placed", "DELETE FROM contexts WHERE context_id = 2"),
    ("exemplars_placed", "UPDATE exemplars SET position = 5 WHERE context_id = 1"),
    ("exemplars_placed", "UPDATE exemplars SET window_start = 3 WHERE context_id = 1"),
    ("exemplars_placed", "UPDATE exemplars SET activation = 2.5 WHERE context_id = 1"),
    ("contexts_unique", "INSERT INTO contexts SELECT * FROM contexts WHERE context_id = 1"),
    ("tokens_known", "DELETE FROM vocab WHERE token_id = 4"),
    ("tokens_known", "UPDATE read_tokens SET token_id = 77 WHERE rank = 1"),
    ("tokens_known", "INSERT INTO vocab VALUES (4, 'twice', 0)"),
    ("tokens_known", "UPDATE contexts SET token_ids = [77]"),
    ("token_stats_counts", "UPDATE token_stats SET n = 41 WHERE layer = 0 AND neuron = 0 AND token_id = 1"),
    ("token_stats_counts", "UPDATE token_stats SET n = 0 WHERE layer = 0 AND neuron = 0 AND token_id = 1"),
    ("token_stats_counts", "UPDATE token_stats SET sum = 999 WHERE layer = 0 AND neuron = 0 AND token_id = 1"),
    ("token_stats_counts", "INSERT INTO token_stats SELECT * FROM token_stats WHERE layer = 1"),
    ("logit_lens_ranked", "UPDATE logit_lens SET rank = 5 WHERE rank = 1"),
    ("logit_lens_ranked", "UPDATE logit_lens SET value = -9 WHERE polarity = -1 AND rank = 1"),
    ("read_tokens_ranked", "UPDATE read_tokens SET rank = 5 WHERE rank = 1"),
    ("read_tokens_ranked", "UPDATE read_tokens SET value = 9 WHERE rank = 1"),
    ("read_tokens_ranked", "UPDATE read_tokens SET value = -value WHERE polarity = -1"),
    ("read_tokens_ranked", "UPDATE read_tokens SET part = 'down' WHERE part = 'gate'"),
    ("read_tokens_ranked", "UPDATE read_tokens SET part = NULL WHERE part = 'gate'"),
    ("read_tokens_ranked", "UPDATE read_tokens SET polarity = -1, value = -1.5 WHERE part = 'gate'"),
    ("clusters_sizes", "UPDATE clusters SET size = 4 WHERE cluster_path = '1'"),
    ("clusters_sizes", "UPDATE neurons SET cluster_path = '1.2' WHERE feature_id = 0"),
    ("clusters_sizes", "INSERT INTO clusters SELECT * FROM clusters WHERE cluster_path = '2'"),
    ("clusters_sizes", "UPDATE clusters SET size = 9 WHERE cluster_path = '1.1'"),
    ("clusters_paths", "DELETE FROM clusters WHERE cluster_path = '1'"),
    ("clusters_paths", "UPDATE clusters SET level = 3 WHERE cluster_path = '1.1'"),
    ("clusters_paths", "UPDATE clusters SET sub_module = 9 WHERE cluster_path = '1.1'"),
    ("neurons_clusters", "UPDATE neurons SET cluster_path = '1.1.1', hierarchy_depth = 3, subsub_module = 1 "
                         "WHERE feature_id = 0"),  # a leaf's rank
    ("neurons_clusters", "UPDATE neurons SET top_cluster = 7 WHERE feature_id = 0"),
    ("label_texts_refer", "UPDATE label_texts SET code = code || 'P' WHERE text_id = 0"),
    ("label_texts_refer", "UPDATE label_texts SET code = ' ' || code[2:] WHERE text_id = 0"),
    ("label_texts_refer", "UPDATE label_texts SET text_id = 1 WHERE text_id = 0"),
    ("label_texts_refer", "DELETE FROM label_texts WHERE text_id = 0"),
    ("label_texts_refer", "UPDATE label_text_uses SET neuron = 99 WHERE layer = 0"),
    ("label_texts_refer", "UPDATE label_text_uses SET field = 'other' WHERE layer = 0"),
    ("labels_refer", "UPDATE labels SET neuron = 99 WHERE layer = 0"),
    ("labels_refer", "UPDATE labels SET label = '' WHERE layer = 0"),
    ("labels_refer", "DELETE FROM labels WHERE layer = 2"),
    ("wiring_signs", "UPDATE wiring SET polarity = -polarity"),
    ("wiring_signs", "UPDATE wiring SET effective_strength = 0"),
    ("wiring_layers", "UPDATE wiring SET other_layer = 0 WHERE direction = 'downstream'"),
    ("wiring_layers", "UPDATE wiring SET direction = 'sideways'"),
    ("wiring_layers", "UPDATE wiring SET other_neuron = 8 WHERE direction = 'upstream'"),
    ("wiring_ranked", "UPDATE wiring SET rank = 1"),
    ("wiring_ranked", "INSERT INTO wiring SELECT * REPLACE (1 AS rank, 5.0 AS effective_strength) FROM wiring LIMIT 1"),
    ("pruning_scores", "UPDATE pruning SET pruning_score = 1.5 WHERE layer = 0"),
    ("pruning_scores", "UPDATE pruning SET weight_rank = 9 WHERE layer = 0"),
    ("pruning_scores", "INSERT INTO pruning SELECT * FROM pruning WHERE layer = 0 AND neuron = 0"),
    ("pruning_scores", "UPDATE pruning SET pruning_score_global = -1 WHERE layer = 0"),
    ("pruning_scores", "UPDATE pruning SET importance = 9 WHERE layer = 0 AND neuron = 0"),  # the safest of its layer
    ("pruning_scores", "INSERT INTO pruning SELECT * REPLACE ('wifv' AS score_method) FROM pruning WHERE neuron = 0"),
    ("pruning_documents", "UPDATE calibration_documents SET role = 'heldout'"),
    ("pruning_documents", "UPDATE calibration_documents SET sha256 = upper(sha256)"),
    ("pruning_documents", "INSERT INTO calibration_documents SELECT * FROM calibration_documents LIMIT 1"),
    ("graphs_contain", "DELETE FROM graphs WHERE graph_id = 2"),
    ("graphs_contain", "INSERT INTO graphs SELECT * FROM graphs WHERE graph_id = 2"),
    ("graphs_contain", "UPDATE neuron_graphs SET layer = 3"),
    ("search_sizes", "DELETE FROM search_postings WHERE document = 0"),
    ("search_sizes", "UPDATE search_terms SET documents = documents + 1 WHERE term = 0"),
    ("search_sizes", "UPDATE search_documents SET in_label = 9 WHERE document = 0"),
    ("search_sizes", "UPDATE search_words SET term = 99 WHERE word = 'dog'"),
    ("search_texts", "UPDATE neurons SET label = 'new' WHERE feature_id = 3"),
    ("search_texts", "UPDATE neurons SET label = NULL, description = NULL, input_label = NULL, output_label = NULL "
                     "WHERE feature_id = 0"),
]  # fmt: skip


def test_sound_atlases_pass_every_check(small: Path, drawn: Path) -> None:  # noqa: F811
    for path in (small, drawn):
        with atlas.open(path) as a:
            assert [(r.name, r.sample) for r in a.check() if not r.healthy] == []


def test_every_check_says_what_it_asserts_and_is_broken_below() -> None:
    names = {path.stem for path in sql_files("checks")}
    assert names == {name for name, _ in BREAKS}
    assert all(header(sql_text("checks", name)) for name in names)


@pytest.mark.parametrize(("name", "statement"), BREAKS)
def test_a_broken_table_fails_its_check(small: Path, tmp_path: Path, name: str, statement: str) -> None:  # noqa: F811
    broken = Path(shutil.copy(small, tmp_path / "broken.duckdb"))
    con = open_writer(broken)
    con.execute(statement)
    con.close()
    reader = open_reader(broken, macros=False)
    assert reader.execute(sql_text("checks", name)).fetchall()
