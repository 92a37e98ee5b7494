// Options by the names that an op's schema gives them.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

#include "mixture/family.h"
#include "mixture/objective.h"
#include "mixture/scale.h"
#include "mixture/selection.h"

namespace mdn {

template <class Option>
Option option_of(const char* kind, const std::string& name,
                 std::initializer_list<std::pair<const char*, Option>> options) {
  for (const auto& [known, option] : options) {
    if (name == known) return option;
  }
  throw std::runtime_error("mdnkernels: unknown " + std::string(kind) + " " + name);
}

inline Family family_of(const std::string& name, double parameter) {
  int number = 0;
  for (const char* known : MDN_SIMD_LEVEL::Families::names) {
    if (name == known) return {number, parameter};
    ++number;
  }
  throw std::runtime_error("mdnkernels: unknown family " + name);
}

inline ScaleActivation activation_of(const std::string& name) {
  return option_of<ScaleActivation>("scale_activation", name,
                                    {{"elu", ScaleActivation::elu},
                                     {"softplus", ScaleActivation::softplus},
                                     {"exp", ScaleActivation::exp},
                                     {"identity", ScaleActivation::identity}});
}

inline Assign assign_of(const std::string& name) {
  return option_of<Assign>("assign", name,
                           {{"likelihood", Assign::likelihood}, {"best", Assign::best}, {"given", Assign::given}});
}

inline Selection selection_of(const std::string& name) {
  return option_of<Selection>(
      "select", name, {{"weight", Selection::weight}, {"density", Selection::density}, {"mean", Selection::mean}});
}

}  // namespace mdn
