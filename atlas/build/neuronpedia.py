"""An atlas, a plan and, where weights are asked for, the model -> a Neuronpedia package or an estimate of its size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import InputError
from atlas.export.neuronpedia import write
from atlas.export.neuronpedia.draft import check_space
from atlas.export.neuronpedia.plan import NeuronpediaPlan
from atlas.export.neuronpedia.write import Estimate, Package
from atlas.progress import Progress, Quiet

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas


def export_neuronpedia(
    atlas: Atlas,
    target: Path,
    plan: NeuronpediaPlan,
    *,
    progress: Progress | None = None,
    expected: Estimate | None = None,
) -> Package:
    """Write the package of a plan to `target`; with plan.model also saelens/, one transcoder a layer.

    As atlas.export.neuronpedia.write.export_neuronpedia, with the errors of atlas.build.saelens.export_saelens;
    weights come first, so a wrong model is refused before the long work. `expected`: an estimate made before. An
    exception that `progress` raises leaves no target. Raises InputError for more than plan.most_bytes,
    ResourceError for more than the disk has free.
    """
    shown = progress or Quiet()
    expected = expected or estimate(atlas, plan)
    if expected.size_bytes > plan.most_bytes:
        raise InputError(
            f"{expected.features:,} neurons would take about {expected.size_bytes / 1e9:.2f} GB; choose fewer, leave "
            f"parts out, or allow it with --max-size {-(-expected.size_bytes // 10**9)}GB"
        )
    check_space(target, expected.disk_bytes)
    model = plan.model
    if model is None:
        return write.export_neuronpedia(atlas, target, plan, progress=shown)

    def weights(folder: Path) -> None:
        from atlas.build.saelens import SaelensPlan, export_saelens

        chosen = SaelensPlan(sorted(set(plan.neurons)), tuple(plan.signs), plan.most_bytes)
        export_saelens(atlas, model, folder, chosen, progress=shown)

    return write.export_neuronpedia(atlas, target, plan, progress=shown, weights=weights)


def estimate(atlas: Atlas, plan: NeuronpediaPlan) -> Estimate:
    """What an export would write, from the records of up to 128 neurons; weights are added to the byte."""
    found = write.estimate(atlas, plan)
    if plan.model is None:
        return found
    from atlas.models.tensors import in_files
    from atlas.models.transcoder import size_of

    tensors, width = in_files(plan.model), atlas.d_mlp
    chosen = sorted(set(plan.neurons))
    layers = [sum(one // width == layer for one in chosen) for layer in sorted({one // width for one in chosen})]
    size = sum(size_of(tensors, count * len(plan.signs)) for count in layers)
    files = found.files + 2 * len(layers) + 1
    twice = size if plan.layout == "prd" and plan.zip else 0
    disk = found.disk_bytes + size + twice
    return replace(found, size_bytes=found.size_bytes + size, weight_bytes=size, disk_bytes=disk, files=files)
