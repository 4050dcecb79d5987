"""What must hold of the demo's source before anything is made of it."""

import dagster as dg

from assets.framework.partitions import key_of
from assets.framework.store import AssetStore
from assets.toyworld.assets import SOURCE

GUESSING_LIMIT = 0.60
"""No rule that does not look ahead may come near what the models are meant to learn (reference: .566 at most)."""


def toyworld_checks() -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=key_of(SOURCE),
        blocking=True,
        description="The four options do not give the answer away: no simple rule gets far on held-out boards.",
    )
    def options_do_not_leak(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        rules: dict[str, float] = store.current(SOURCE).provenance["counts"]["rules"]
        best = max(rules, key=lambda rule: rules[rule])
        return dg.AssetCheckResult(
            passed=rules[best] <= GUESSING_LIMIT,
            description=f"the best rule that does not look ahead, {best}, is right in {rules[best]:.1%}; at most "
            f"{GUESSING_LIMIT:.0%} may be",
            metadata={"best_rule": best, "accuracy": rules[best], "limit": GUESSING_LIMIT, "rules": rules},
        )

    return [options_do_not_leak]
