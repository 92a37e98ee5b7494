// What mixture_nll minimises, and what it multiplies gradients by.
#pragma once

namespace mdn {

// With e_m = log alpha_m + log phi_m the loss of a position is
//   likelihood  -tau logsumexp_m(e_m / tau), tau the temperature; r = softmax(e / tau)
//   best        -max_m e_m; r is 1 for the winner, the first of equals
//   given       -e_a of the component a that the caller assigns, -1 for none; r is 1 for it
// and its gradient is alpha - r for the logits and r times that of -log phi_m for component m.
enum class Assign { likelihood, best, given };

struct Objective {
  Assign assign = Assign::likelihood;
  double temperature = 1;
  // Factors of the gradients of loc and scale, which are gradients of the value no longer where they are not 1:
  //   loc    loc_factor sigma^power, and kappa_d^2 more where `natural`
  //   scale  scale_factor sigma^power, over the scale's observed dimensions where `natural`
  double power = 0, loc_factor = 1, scale_factor = 1;
  bool natural = false;

  bool rescales() const { return power != 0; }
};

}  // namespace mdn
