// Which component mixture_mode gives.
#pragma once

namespace mdn {

enum class Selection { weight, density, mean };

}  // namespace mdn
