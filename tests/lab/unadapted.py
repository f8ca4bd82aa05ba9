"""The negative control's agent: it restores as the product does, without adapting anything.

For the lab only. What it restores must fail to come up on other hardware; if it does not, the lab proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.model import planner
from agent.model.plan import ApplyRecipe, Plan, RebuildInitramfs, VerifyBoot

DROPPED = (ApplyRecipe, RebuildInitramfs, VerifyBoot)


def without_adaptation(make_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    def make_unadapted_plan(*values: object, **named: object) -> Plan:
        plan = make_plan(*values, **named)
        kept = tuple(step for step in plan.steps if not isinstance(step, DROPPED))
        return msgspec.structs.replace(plan, steps=kept, components=())

    return make_unadapted_plan


planner.make_plan = without_adaptation(planner.make_plan)

# Only now: those modules take make_plan by name when they are imported.
from agent.__main__ import main  # noqa: E402
from agent.restore import prepare  # noqa: E402

assert vars(prepare)["make_plan"] is planner.make_plan, "the plan would be adapted after all"

if __name__ == "__main__":
    main()
