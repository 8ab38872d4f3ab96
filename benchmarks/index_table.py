"""The tables of the index benchmark."""

from typing import Any

from benchmarks.report import machine_line


def make_table(result: dict[str, Any]) -> str:
    """Markdown of all parts that were measured, each with the day and the machine it was measured on."""
    lines: list[str] = []
    if part := result.get("million"):
        lines += [
            "",
            machine_line(part),
            "",
            f"{part['num_vectors']:,} vectors of {part['dim']} components: {part['num_chunks']:,} chunks of real "
            "text encoded by all-minilm-l6-v2, turned into the wider space (cosines stay), again and again with fresh "
            "noise of length 0.35; "
            f"{part['num_queries']} real questions, asked one by one. Memory is the highest of a contestant's process.",
            "",
            *_contest(part["rows"]),
        ]
    if part := result.get("real"):
        lines += [
            "",
            machine_line(part),
            "",
            f"{part['num_vectors']:,} chunks of real text, {part['dim']} components, {part['num_queries']} real "
            "questions. Up to this size an index compares every vector; here its approximate path is measured.",
            "",
            *_contest(part["rows"]),
            "",
            "The same chunks asked in words, encoding of the question by all-minilm-l6-v2 included:",
            "",
            "| search | p50 | p95 |",
            "|---|---:|---:|",
            *(
                f"| {mode} | {part['questions'][mode]['p50_ms']:.1f} ms | {part['questions'][mode]['p95_ms']:.1f} ms |"
                for mode in ("dense", "bm25", "hybrid")
            ),
        ]
    if part := result.get("job"):
        lines += [
            "",
            machine_line(part),
            "",
            f"A build of {part['num_chunks']:,} chunks ({part['num_tokens']:,} tokens) takes "
            f"{100 * part['overhead']:.1f} % longer than `Embedder.encode` of the same texts (median of "
            f"{len(part['raw_s'])} interleaved rounds: {_seconds(part['job_s'])} against {_seconds(part['raw_s'])}).",
        ]
    if part := result.get("ray"):
        lines += [
            "",
            machine_line(part),
            "",
            f"A build of {part['num_chunks']:,} chunks ({part['num_tokens']:,} tokens) takes {part['local_s']:.0f} s "
            f"by the local path and {part['ray_s']:.0f} s on a Ray cluster of this machine, of which "
            f"{part['start_s']:.0f} s are the start of the actor: {100 * part['overhead']:+.1f} % without the start.",
        ]
    return "\n".join(lines).strip()


def _contest(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| search | write and build | memory of build | memory of search | recall@10 | p50 | p95 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        build = f"{row.get('write_s', 0) + row['build_s']:.0f} s" if row["build_s"] else "-"
        memory = f"{row['build_peak_bytes'] / 2**30:.2f} GiB" if "build_peak_bytes" in row else "-"
        lines.append(
            f"| {name} | {build} | {memory} | {row['peak_bytes'] / 2**30:.2f} GiB | {row['recall']:.3f} | "
            f"{row['p50_ms']:.1f} ms | {row['p95_ms']:.1f} ms |"
        )
    return lines


def _seconds(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values) + " s"
