// Finds the type of a tensor's elements from its dtype, and the blocks of a launch from its work.
#pragma once

#include "core/cuda/tiles.cuh"

namespace mdn {

// The type of a tensor's elements, as a value that carries nothing else.
template <class T>
struct ElementType {
  using Type = T;
};

// Calls visit(ElementType<T>{}) for the floating-point type that a dtype names.
template <class Visit>
void with_element_type(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::float64:
      return visit(ElementType<double>{});
    case DType::bfloat16:
      return visit(ElementType<__nv_bfloat16>{});
    case DType::float16:
      return visit(ElementType<__half>{});
    default:
      return visit(ElementType<float>{});
  }
}

// The blocks of a launch over so many pieces of work. Each block takes every gridDim.x-th piece.
inline int blocks_over(int64_t pieces) { return static_cast<int>(pieces < 0x7fffffff ? pieces : 0x7fffffff); }

}  // namespace mdn
