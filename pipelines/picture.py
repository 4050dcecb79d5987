"""The lineage as a Mermaid picture, from the definitions themselves: `future-l1 picture`."""

import dagster as dg


def mermaid(definitions: dg.Definitions) -> str:
    """A flowchart of all assets, one subgraph a group; partitioned assets are drawn as stacks."""
    nodes = sorted(definitions.resolve_asset_graph().asset_nodes, key=lambda node: node.key.to_user_string())
    lines = ["flowchart LR"]
    for group in dict.fromkeys(str(node.group_name) for node in nodes):
        lines.append(f"  subgraph {group}")
        for node in nodes:
            if node.group_name == group:
                name = node.key.to_user_string()
                left, right = ("[[", "]]") if node.partitions_def else ("[", "]")
                lines.append(f'    {_id(node.key)}{left}"{name}"{right}')
        lines.append("  end")
    for node in nodes:
        lines += [f"  {_id(parent)} --> {_id(node.key)}" for parent in sorted(node.parent_keys)]
    return "\n".join(lines)


def _id(key: dg.AssetKey) -> str:
    return "_".join(key.path)
