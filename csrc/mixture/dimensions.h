// Which dimensions of a component share a raw scale, and which depend on one another.
#pragma once

namespace mdn {

struct Dimensions {
  int count = 0;   // C
  int scales = 0;  // S, a divisor of C
  // Dimension d has the scale d % S; else d // (C // S), as a mask of G groups covers d // (C // G).
  bool interleaved = true;
  int block = 1;                // D, a divisor of C: how many neighbours are correlated; 1 where none are
  int entries = 0;              // Q, the entries of L that a component has
  bool shared_entries = false;  // D (D - 1) / 2 of them, which serve all blocks; else each block has its own

  int entries_of_block() const { return block * (block - 1) / 2; }
  // From a dimension to the next of the same scale; each has C / S.
  int step() const { return interleaved ? scales : 1; }
  int scale_of(int dim) const { return interleaved ? dim % scales : dim / (count / scales); }
};

}  // namespace mdn
