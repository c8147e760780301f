"""Summary of the tokens that grouping and packing save, computed from the first batches before training begins."""

from scotd_jax.corpus.batching.loader import CorpusBatches
from scotd_jax.corpus.batching.shapes import padding


def padding_savings(batches: CorpusBatches) -> str:
    """Returns one line on the tokens that grouping saves and on the remaining padding.

    For example "22 responses share a question: 1.6 times fewer tokens than separate pairs; padding 6 % of response
    tokens and 7 % of prompt tokens, in 2 shapes". Repeated responses count as padding.
    """
    preview = batches.preview()
    assigned = [batches.selected_shapes.assign(lengths)[0] for lengths in preview]
    parts = [part for lengths in preview for part in lengths.values()]
    per_question = sum(int((p.responses > 0).sum()) for p in parts) / sum(len(p.prompts) for p in parts)
    response_tokens = sum(int(p.responses.sum()) for p in parts)
    grouped = response_tokens + sum(int(p.prompts.sum()) for p in parts)
    separate = response_tokens + sum(int(((p.responses > 0).sum(1) * p.prompts).sum()) for p in parts)
    grouping = "every question comes with one response"
    if per_question > 1:
        saving = f"{separate / grouped:.1f} times fewer tokens than separate pairs"
        grouping = f"{per_question:.3g} responses share a question: {saving}"
    prompts, responses = (100 * share for share in padding(preview, assigned))
    count = len({tuple(shapes.items()) for shapes in assigned})
    return (
        f"{grouping}; padding {responses:.0f} % of response tokens and {prompts:.0f} % of prompt tokens, "
        f"in {count} {'shape' if count == 1 else 'shapes'}"
    )
