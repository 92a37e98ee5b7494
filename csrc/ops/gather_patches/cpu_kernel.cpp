// Windows of a map around chosen cells, and their gradient. Built once for each instruction set.
//
// Memory story. Only the windows' own lines are touched. In a planar map each row of a window is a line of its own, 64
// KB and a page away from the next channel's, which no hardware prefetcher foresees: the lines of the channels ahead
// are asked for early. In a channels_last map each cell of a window is one run over the channels; the window is turned
// into (C, k, k) in tiles of channels that stay in the first-level cache, so that the output is written in order. The
// gradient goes cell by cell of the map, each written once, however many windows overlap there.
#include "ops/gather_patches/cpu.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

constexpr int64_t channels_ahead = 8;
constexpr int64_t tile_channels = 64;

// The part of a window that lies within the map.
struct Window {
  Window(const MapView& map, int64_t cell, int64_t kernel_size) {
    const int64_t top = cell / map.width - kernel_size / 2, left = cell % map.width - kernel_size / 2;
    first_row = top < 0 ? -top : 0;
    first_column = left < 0 ? -left : 0;
    rows = (top + kernel_size > map.height ? map.height - top : kernel_size) - first_row;
    columns = (left + kernel_size > map.width ? map.width - left : kernel_size) - first_column;
    corner = (top + first_row) * map.row_stride + (left + first_column) * map.column_stride;
    whole = rows == kernel_size && columns == kernel_size;
  }
  int64_t first_row, first_column, rows, columns;
  int64_t corner;  // offset in the map's image of the part's first cell, in elements
  bool whole;
};

// `fixed` is kernel_size where the compiler knows it and the window is whole, else 0.
template <class T, int fixed>
void gather_by_channel(const MapView& map, const T* image, const Window& window, int kernel_size, T* to) {
  const int64_t k = fixed ? fixed : kernel_size;
  const int64_t rows = fixed ? fixed : window.rows, columns = fixed ? fixed : window.columns;
  const int64_t skipped = fixed ? 0 : window.first_row * k + window.first_column;
  for (int64_t c = 0; c < map.channels; ++c, to += k * k) {
    const T* from = image + window.corner + c * map.channel_stride;
    if (c + channels_ahead < map.channels) {
      const T* ahead = from + channels_ahead * map.channel_stride;
      for (int64_t y = 0; y < rows; ++y) __builtin_prefetch(ahead + y * map.row_stride);
    }
    if (!fixed) __builtin_memset(to, 0, k * k * sizeof(T));
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < columns; ++x) {
        to[skipped + y * k + x] = from[y * map.row_stride + x * map.column_stride];
      }
    }
  }
}

// Channels lie side by side: all cells of the window together, or a tile of channels at a time.
template <class T, int fixed>
void gather_by_cell(const MapView& map, const T* image, const Window& window, int kernel_size, T* to) {
  const T* corner = image + window.corner;
  if constexpr (fixed != 0) {
    const T* from[fixed * fixed];
    for (int y = 0; y < fixed; ++y) {
      for (int x = 0; x < fixed; ++x) from[y * fixed + x] = corner + y * map.row_stride + x * map.column_stride;
    }
    for (int64_t c = 0; c < map.channels; ++c, to += fixed * fixed) {
      for (int j = 0; j < fixed * fixed; ++j) to[j] = from[j][c];
    }
  } else {
    const int64_t k = kernel_size;
    __builtin_memset(to, 0, map.channels * k * k * sizeof(T));
    for (int64_t begin = 0; begin < map.channels; begin += tile_channels) {
      const int64_t end = begin + tile_channels < map.channels ? begin + tile_channels : map.channels;
      for (int64_t y = 0; y < window.rows; ++y) {
        for (int64_t x = 0; x < window.columns; ++x) {
          const T* from = corner + y * map.row_stride + x * map.column_stride;
          T* cell = to + (window.first_row + y) * k + window.first_column + x;
          for (int64_t c = begin; c < end; ++c) cell[c * k * k] = from[c];
        }
      }
    }
  }
}

template <class T>
void gather_elements(const MapView& map, const void* image, int64_t cell, int kernel_size, void* to) {
  T* out = static_cast<T*>(to);
  if (cell < 0) {
    __builtin_memset(out, 0, map.channels * kernel_size * kernel_size * sizeof(T));
    return;
  }
  const T* from = static_cast<const T*>(image);
  const Window window(map, cell, kernel_size);
  const bool by_cell = map.channel_stride == 1;
  if (kernel_size == 1) {
    (by_cell ? gather_by_cell<T, 1> : gather_by_channel<T, 1>)(map, from, window, 1, out);
  } else if (kernel_size == 3 && window.whole) {
    (by_cell ? gather_by_cell<T, 3> : gather_by_channel<T, 3>)(map, from, window, 3, out);
  } else {
    (by_cell ? gather_by_cell<T, 0> : gather_by_channel<T, 0>)(map, from, window, kernel_size, out);
  }
}

void gather(const MapView& map, const void* image, int64_t cell, int kernel_size, void* to) {
  switch (map.dtype) {
    case DType::float32:
      return gather_elements<uint32_t>(map, image, cell, kernel_size, to);
    case DType::float64:
      return gather_elements<uint64_t>(map, image, cell, kernel_size, to);
    default:
      return gather_elements<uint16_t>(map, image, cell, kernel_size, to);
  }
}

template <class T, class Storage>
void scatter_elements(const MapView& map, Storage* image, const CoveredCell* cells, int64_t count,
                      const WindowElement* elements, const Storage* patches, int64_t window, int64_t begin,
                      int64_t end) {
  const int64_t object_stride = map.channels * window;
  const auto sum = [&](const CoveredCell& cell, int64_t c) {
    T total = 0;
    for (int64_t e = cell.begin; e < cell.end; ++e) {
      T value;
      convert(patches[elements[e].object * object_stride + c * window + elements[e].cell], value);
      total += value;
    }
    return total;
  };
  if (map.channel_stride == 1) {
    for (int64_t i = 0; i < count; ++i) {
      Storage* to = image + cells[i].offset;
      for (int64_t c = begin; c < end; ++c) convert(sum(cells[i], c), to[c]);
    }
  } else {
    for (int64_t c = begin; c < end; ++c) {
      Storage* to = image + c * map.channel_stride;
      for (int64_t i = 0; i < count; ++i) convert(sum(cells[i], c), to[cells[i].offset]);
    }
  }
}

void scatter(const MapView& map, void* image, const CoveredCell* cells, int64_t count, const WindowElement* elements,
             const void* patches, int64_t window, int64_t begin, int64_t end) {
  const auto run = [&](auto zero, auto element) {
    using Storage = decltype(element);
    scatter_elements<decltype(zero), Storage>(map, static_cast<Storage*>(image), cells, count, elements,
                                              static_cast<const Storage*>(patches), window, begin, end);
  };
  switch (map.dtype) {
    case DType::float64:
      return run(0.0, 0.0);
    case DType::bfloat16:
      return run(0.0f, BFloat16{});
    case DType::float16:
      return run(0.0f, Float16{});
    default:
      return run(0.0f, 0.0f);
  }
}

}  // namespace

const PatchKernel patch_kernel = {gather, scatter};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
