"""What `verify_rewrite` measured, as text and as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from craftc.passes.compilation import Verification


def verification_text(verification: Verification) -> str:
    """Differences next to what is allowed, one comparison per line."""
    lines = [
        f"outputs, {what}: max abs difference {difference:.3g}, allowed {verification.tolerance[what]:.3g}"
        for what, difference in verification.max_abs_difference.items()
    ]
    lines += [
        f"outputs, {what}: not compared, because the original model does not run in it: {reason}"
        for what, reason in verification.skipped.items()
    ]
    lines.append(
        f"tokens per GPU: counted within {verification.max_token_deviation:.3%} of the mean from the plan's prediction"
    )
    return "\n".join(lines)


def verification_document(verification: Verification) -> dict[str, Any]:
    """The same as JSON values."""
    return asdict(verification)
