"""The contract between measuring and storing: the Arrow schema of every shard file and of every atlas table.

Shards are Parquet files written by atlas.measure (which knows no database) and read by atlas.ingest (which knows no
torch). `SHARDS` is what a measuring step writes; `TABLES` is what the atlas file holds (tests compare it with
sql/schema). Layers, neurons, positions, ranks and token ids count from 0. Activations are the values of the input of
an MLP's down projection, in the model's own unit.
"""

from __future__ import annotations

import pyarrow as pa

I8, I16, I32, I64 = pa.int8(), pa.int16(), pa.int32(), pa.int64()
F32, F64, TEXT, BOOL = pa.float32(), pa.float64(), pa.string(), pa.bool_()
IDS = pa.list_(I32)

HIST_BINS = 64  # inner bins; a histogram list has HIST_BINS + 2 counts, the outer two are under- and overflow
UNIT_TYPE = "mlp_neuron"
CONTEXTS_PER_DOCUMENT = 1 << 20  # context_id = document * this + index of the context within its document


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


_NEURON = {"layer": I32, "neuron": I32}
_IN_FIELDS = {f"in_{field}": I32 for field in ("label", "description", "input_label", "output_label")}

SHARDS: dict[str, pa.Schema] = {
    # -- activations ------------------------------------------------------------------------------------------
    # one row per neuron; s1..s4 = sums of a, a^2, a^3, a^4; abs_sum = sum |a|; n_active counts a > 0;
    # n_fired_pos counts a > fire_pos, n_fired_neg counts a < fire_neg (per-neuron thresholds from calibration);
    # hist: HIST_BINS + 2 counts over [hist_lo, hist_hi); calib_gate = sum r u act'(g), calib_up = sum r act(g)
    # (wiring.md; ungated: calib_gate NULL, calib_up = sum r act'(z); post-norm: without r); r = factor of the norm
    # before the MLP; calib_out = sum of the factor of the norm on the MLP's output, NULL where there is none.
    "neuron_stats": _schema(
        **_NEURON,
        n_tokens=I64,
        s1=F64,
        s2=F64,
        s3=F64,
        s4=F64,
        abs_sum=F64,
        n_active=I64,
        n_fired_pos=I64,
        n_fired_neg=I64,
        fire_pos=F32,
        fire_neg=F32,
        min=F32,
        max=F32,
        hist_lo=F32,
        hist_hi=F32,
        hist=pa.list_(I64),
        calib_gate=F64,
        calib_up=F64,
        calib_out=F64,
    ),
    # stratum 0 = the strongest of that sign (rank 0 first); 1.. = a sample inside quantile strata, chosen by the
    # smallest priority (a hash of neuron, document and position). window = activations of the positions
    # window_start .. window_start + len - 1 of the context.
    "exemplars": _schema(
        **_NEURON,
        polarity=I8,
        stratum=I16,
        rank=I16,
        activation=F32,
        context_id=I64,
        position=I32,
        window_start=I32,
        window=pa.list_(F32),
        priority=I64,
    ),
    # only contexts that an exemplar of this shard points into; offset = index of the first token in its document
    "contexts": _schema(context_id=I64, document=I64, offset=I32, token_ids=IDS),
    # firings beyond the neuron's threshold of that sign, by token at the position
    "token_stats": _schema(**_NEURON, polarity=I8, token_id=I32, n=I64, sum=F64, max=F32, min=F32),
    "token_counts": _schema(token_id=I32, n=I64),
    # -- gradients (calibration documents) ---------------------------------------------------------------------
    # L = summed negative log likelihood; g = dL/da per token; sums over tokens in float64
    # block = index of the run of consecutive documents that the sums are over; the merge adds blocks in order
    "gradient_stats": _schema(
        block=I32,
        **_NEURON,
        n_tokens=I64,
        s_a=F64,
        s_a2=F64,
        s_abs=F64,
        s_g2=F64,
        s_ag=F64,
        s_a2g2=F64,
        s_absag=F64,
        s_ag2=F64,
    ),
    # -- weights ----------------------------------------------------------------------------------------------
    "weight_stats": _schema(
        name=TEXT,
        layer=I32,
        total_parameters=I64,
        non_zero_parameters=I64,
        sparsity=F64,
        mean_magnitude=F64,
        std_magnitude=F64,
        min_magnitude=F64,
        max_magnitude=F64,
        l1_norm=F64,
        l2_norm=F64,
    ),
    "neuron_weights": _schema(**_NEURON, weight_magnitude=F64, gate_norm=F64, up_norm=F64, output_norm=F64),
    "vocab": _schema(token_id=I32, token=TEXT),
    "logit_lens": _schema(**_NEURON, polarity=I8, rank=I16, token_id=I32, value=F32),
    # part 'gate' or 'up'; value = share of the token's embedding in that pre-activation
    "read_tokens": _schema(**_NEURON, part=TEXT, polarity=I8, rank=I16, token_id=I32, value=F32),
    # direction 'downstream' (other = target) or 'upstream' (other = source); polarity +1 excitatory, -1 inhibitory
    "wiring": _schema(
        **_NEURON,
        direction=TEXT,
        polarity=I8,
        rank=I16,
        other_layer=I32,
        other_neuron=I32,
        c_up=F32,
        c_gate=F32,
        lab_strength=F32,
        effective_strength=F32,
        polarity_source=TEXT,
    ),
    # -- RelP attribution graphs (relp.md) ----------------------------------------------------------------------
    "graphs": _schema(
        graph_id=I64,
        document=I64,
        prompt=TEXT,
        token_ids=IDS,
        metric=TEXT,
        metric_value=F64,
        targets=IDS,
        target_position=I32,
        tau=F64,
        n_nodes=I32,
        n_edges=I32,
        nodes_dropped=I32,
        relevance_dropped=F64,
        explained=F64,
        remainder=F64,
        completeness_residual=F64,
        edge_method=TEXT,
        dtype=TEXT,
        always_on=IDS,  # layer * d_mlp + neuron of the neurons that were left out of the nodes, ascending
    ),
    # activation h, gradient dm/dh, relevance h * dm/dh, direct D(s->m), explained = share of the relevance of this
    # node that comes from selected sources and embeddings listed in the graph
    "graph_nodes": _schema(
        graph_id=I64, **_NEURON, position=I32, activation=F32, gradient=F64, relevance=F64, direct=F64, explained=F64
    ),
    # weight = flow F(s->t) = h_s J(s->t) g_t, signed
    "graph_edges": _schema(
        graph_id=I64,
        src_layer=I32,
        src_neuron=I32,
        src_position=I32,
        tgt_layer=I32,
        tgt_neuron=I32,
        tgt_position=I32,
        weight=F64,
    ),
    # kind 'embedding' (token -> neuron) or 'logit' (neuron -> token); weight in units of the metric
    "graph_token_edges": _schema(
        graph_id=I64, kind=TEXT, token_id=I32, token_position=I32, **_NEURON, position=I32, weight=F64
    ),
}

# What tools before us had summed already (checkpoints, profiles, wiring): sums over observations in the unit of the
# metric; n_graphs NULL where graphs were not counted, weight_* NULL where only their sum is known.
_SUMS = {"count": I64, "n_graphs": I64}
_SUMS |= {name: F64 for name in ("weight_sum", "weight_abs_sum", "weight_sq_sum", "weight_min", "weight_max")}
STATISTICS: dict[str, pa.Schema] = {
    "edge_statistics": _schema(src_layer=I32, src_neuron=I32, tgt_layer=I32, tgt_neuron=I32, **_SUMS),
    "token_edge_statistics": _schema(kind=TEXT, token_id=I32, **_NEURON, **_SUMS),
    "neuron_appearances": _schema(**_NEURON, appearances=I64),  # graphs that a neuron is a node of
}

_EDGE_SUMS = {
    "count": I32,
    "n_graphs": I32,
    "weight_sum": F32,
    "weight_abs_sum": F32,
    "weight_sq_sum": F32,
    "weight_min": F32,
    "weight_max": F32,
}

TABLES: dict[str, pa.Schema] = {
    "neurons": _schema(
        **_NEURON,
        feature_id=I64,
        unit_type=TEXT,
        label=TEXT,
        description=TEXT,
        input_label=TEXT,
        output_label=TEXT,
        max_activation=F32,
        num_exemplars=I32,
        appearance_count=I32,
        output_norm=F32,
        cluster_path=TEXT,
        top_cluster=I32,
        sub_module=I32,
        subsub_module=I32,
        hierarchy_depth=I32,
        infomap_flow=F64,
    ),
    "edges": _schema(
        src=I32,
        tgt=I32,
        src_layer=pa.uint8(),
        src_neuron=pa.uint16(),
        **_EDGE_SUMS,
        tgt_layer=pa.uint8(),
        tgt_neuron=pa.uint16(),
        mean_weight=F64,
        mean_abs_weight=F64,
    ),
    "edges_in": _schema(tgt=I32, src=I32, rank=I32),
    "edge_totals": _schema(id=I32, n_out=I32, n_in=I32, weight_out=F64, weight_in=F64, norm_out=F64, norm_in=F64),
    "edges_top": _schema(rank=I32, src=I32, tgt=I32, weight_abs_sum=F32),
    "clusters": _schema(
        cluster_path=TEXT,
        level=I32,
        top_cluster=I32,
        sub_module=I32,
        subsub_module=I32,
        size=I32,
        layer_min=I32,
        layer_max=I32,
        median_layer=F64,
        flow=F64,
        label=TEXT,
        internal_weight=F64,
        outgoing_weight=F64,
        incoming_weight=F64,
        conductance=F64,
    ),
    "metadata": _schema(key=TEXT, value=TEXT),
    "vocab": _schema(token_id=I32, token=TEXT, count=I64),
    "contexts": _schema(context_id=I64, corpus=TEXT, document=I64, offset=I32, token_ids=IDS),
    "exemplars": _schema(
        **_NEURON,
        polarity=I8,
        stratum=I16,
        rank=I16,
        activation=F32,
        context_id=I64,
        position=I32,
        window_start=I32,
        window=pa.list_(F32),
    ),
    "token_stats": SHARDS["token_stats"],
    "neuron_stats": _schema(
        **_NEURON,
        n_tokens=I64,
        s1=F64,
        s2=F64,
        s3=F64,
        s4=F64,
        abs_sum=F64,
        n_active=I64,
        n_fired_pos=I64,
        n_fired_neg=I64,
        fire_pos=F32,
        fire_neg=F32,
        min=F32,
        max=F32,
        hist_lo=F32,
        hist_hi=F32,
        hist=pa.list_(I64),
        quantiles=pa.list_(F32),
        calib_gate=F64,
        calib_up=F64,
        grad_tokens=I64,
        grad_s_a=F64,
        grad_s_a2=F64,
        grad_s_abs=F64,
        grad_s_g2=F64,
        grad_s_ag=F64,
        grad_s_a2g2=F64,
        grad_s_absag=F64,
        grad_s_ag2=F64,
        calib_out=F64,
    ),
    "wiring": SHARDS["wiring"],
    "token_edges": _schema(kind=TEXT, token_id=I32, **_NEURON, **_EDGE_SUMS),
    "logit_lens": SHARDS["logit_lens"],
    "read_tokens": SHARDS["read_tokens"],
    "labels": _schema(
        **_NEURON,
        **{"pass": TEXT},
        polarity=I8,
        label=TEXT,
        short_label=TEXT,
        description=TEXT,
        type=TEXT,
        interpretability=TEXT,
        confidence=TEXT,
        status=TEXT,
        source=TEXT,
        model=TEXT,
        prompt_version=TEXT,
        prompt_hash=TEXT,
        run=TEXT,
        score=F64,
        created=TEXT,
    ),
    "graphs": _schema(
        **{field.name: field.type for field in SHARDS["graphs"] if field.name != "always_on"},
        explained_neurons=F64,
        source_file=TEXT,
        source_hash=TEXT,
        always_on=IDS,
    ),
    "neuron_graphs": _schema(**_NEURON, graph_id=I64, positions=I32, relevance=F64, explained=F64),
    "appearances": _schema(**_NEURON, graphs=I32),
    "reported_activations": _schema(**_NEURON, max_activation=F32, num_exemplars=I32, source=TEXT),
    "cooccurrence": _schema(**_NEURON, rank=I16, other_layer=I32, other_neuron=I32, n_graphs=I32, lift=F64),
    "partitions": _schema(
        method=TEXT,
        parameters=TEXT,
        seed=I64,
        **_NEURON,
        cluster_path=TEXT,
        flow=F64,
        clustering=TEXT,
        membership=F64,
    ),
    "clusterings": _schema(
        clustering=TEXT,
        method=TEXT,
        parameters=TEXT,
        seed=I64,
        edges=I64,
        neurons=I64,
        modules=I64,
        top_modules=I64,
        levels=I32,
        quality=F64,
        quality_measure=TEXT,
    ),
    "label_scores": _schema(
        **_NEURON,
        **{"pass": TEXT},
        polarity=I8,
        source=TEXT,
        run=TEXT,
        label=TEXT,
        method=TEXT,
        score=F64,
        low=F64,
        high=F64,
        baseline=F64,
        n=I32,
        seed=I64,
        model=TEXT,
        created=TEXT,
    ),
    "cluster_labels": _schema(
        clustering=TEXT,
        cluster_path=TEXT,
        label=TEXT,
        description=TEXT,
        interpretability=TEXT,
        status=TEXT,
        source=TEXT,
        model=TEXT,
        prompt_version=TEXT,
        prompt_hash=TEXT,
        run=TEXT,
        created=TEXT,
    ),
    "weight_stats": SHARDS["weight_stats"],
    "pruning": _schema(
        **_NEURON,
        weight_magnitude=F64,
        weight_rank=I32,
        gate_norm=F64,
        up_norm=F64,
        output_norm=F64,
        activation_magnitude=F64,
        activation_variance=F64,
        importance=F64,
        pruning_score=F64,
        score_method=TEXT,
        eval_id=TEXT,
        fisher=F64,
        wifv=F64,
        taylor_abs=F64,
        wanda=F64,
        pruning_score_global=F64,
    ),
    "calibration_documents": _schema(role=TEXT, sha256=TEXT),
    "impacts": _schema(
        set_id=TEXT,
        eval_id=TEXT,
        layer=I32,
        neuron=I32,
        neurons=pa.list_(I64),
        n_neurons=I32,
        evidence=TEXT,
        impact_score=F64,
        kl=F64,
        kl_low=F64,
        kl_high=F64,
        delta_nll=F64,
        delta_nll_low=F64,
        delta_nll_high=F64,
        kl_p99=F64,
        top1_flip_rate=F64,
        mean_change=F64,
        max_change=F64,
        tokens=I64,
        documents=I64,
        budget=F64,
        safe_to_prune=BOOL,
        reason=TEXT,
        activation_magnitude=F64,
        activation_variance=F64,
        is_critical=BOOL,
        sum_kl=F64,
        joint_over_sum=F64,
        ablation=TEXT,
        corpus=TEXT,
        model=TEXT,
        revision=TEXT,
        dtype=TEXT,
        run=TEXT,
        created=TEXT,
    ),
    "search_words": _schema(word=TEXT, term=I32, form=pa.uint8(), letters=pa.uint32(), documents=I32),
    "search_terms": _schema(term=I32, stem=TEXT, documents=I32, **_IN_FIELDS, peaks=pa.list_(F64)),
    "search_postings": _schema(
        term=I32,
        document=I32,
        forms=pa.uint16(),
        occurrences=pa.uint16(),
        in_description=pa.uint16(),
        in_input_label=pa.uint16(),
        in_output_label=pa.uint16(),
        length=pa.uint16(),
    ),
    "search_documents": _schema(document=I32, **_IN_FIELDS),
    "search_fields": _schema(field=TEXT, documents=I64, words=I64),
    "label_texts": _schema(
        text_id=I32, text=TEXT, factor=F32, code=TEXT, **{f"signs_{word}": I64 for word in range(6)}
    ),
    "label_text_uses": _schema(text_id=I32, field=TEXT, layer=I32, neuron=I32),
    "ingests": _schema(
        step=TEXT,
        key=TEXT,
        source_file=TEXT,
        size_bytes=I64,
        sha256=TEXT,
        rows_in=I64,
        rows_out=I64,
        rows_rejected=I64,
        reason=TEXT,
        started=pa.timestamp("us"),
        finished=pa.timestamp("us"),
    ),
}
