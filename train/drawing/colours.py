"""The one palette, of pictures and plots."""

# Okabe and Ito's colours, told apart with any of the common colour-vision deficiencies; the first three differ most.
COMPONENT_COLOURS: tuple[str, ...] = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

# For boxes without a component: the single-mode base, and the truth.
NEUTRAL_COLOUR = "#E8E8E8"


def component_colour(component: int) -> str:
    """Return the colour of a mixture component as "#RRGGBB"; neutral for -1. The palette repeats after its seven."""
    return NEUTRAL_COLOUR if component < 0 else COMPONENT_COLOURS[component % len(COMPONENT_COLOURS)]
